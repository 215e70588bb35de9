"""Parameters as an Orbax checkpoint: sharded arrays are written and read by the hosts that hold them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from jax.typing import DTypeLike

from jaxmodels.checkpoints.atomic import ORBAX_DIRECTORY, ORBAX_MARKERS
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checks import shown
from jaxmodels.layers.spec import Params, abstract_params
from jaxmodels.models.decoder import Decoder

# Files of Orbax's own, of which each version that could write ours leaves one at least.
_MARKERS = (*ORBAX_MARKERS, "_sharding", "manifest.ocdbt")

_OLD_LAYOUT = (
    ". Checkpoints of this form from before projections were stored [out, in] have other shapes: "
    "convert the model again from its Hugging Face form"
)


def is_orbax(directory: Path) -> bool:
    """Whether a checkpoint directory holds its parameters in Orbax's form; a directory ``params`` of the
    user's own does not count."""
    return any((directory / ORBAX_DIRECTORY / marker).is_file() for marker in _MARKERS)


def save_params(params: Params, directory: Path) -> None:
    """Writes all parameters below ``directory/params`` and waits until they are on the disk."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((directory / ORBAX_DIRECTORY).absolute(), params)
        checkpointer.wait_until_finished()


def load_params(config: Decoder, directory: Path, dtype: DTypeLike) -> Params:
    """Reads the parameters of `config`, cast to `dtype` where the spec pins none, to the default device.

    The devices that they were saved from need not exist.

    Raises:
        CheckpointError: the stored tree or a shape differs from the configuration's, or a file is corrupt.
    """
    path = (directory / ORBAX_DIRECTORY).absolute()
    default_device = jnp.zeros(()).sharding
    wanted = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=default_device),
        abstract_params(config.spec(), dtype),
    )
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, wanted)
    except Exception as error:  # Orbax, TensorStore and the codecs below raise many kinds
        advice = _OLD_LAYOUT if "shape" in str(error) else ""
        raise CheckpointError(
            f"{path} does not hold the parameters of this model, or is damaged: {shown(error, 400)}{advice}"
        ) from error
