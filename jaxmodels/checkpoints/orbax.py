"""Parameters as an Orbax checkpoint: sharded arrays are written and read by the hosts that hold them."""

from pathlib import Path

import orbax.checkpoint as ocp
from jax.typing import DTypeLike

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.layers.spec import Params, abstract_params
from jaxmodels.models.decoder import Decoder

PARAMS_DIRECTORY = "params"
# Files of Orbax's own, of which each version that could write ours leaves one at least.
_MARKERS = ("_METADATA", "_CHECKPOINT_METADATA", "_sharding", "manifest.ocdbt")


def is_orbax(directory: Path) -> bool:
    """Whether a checkpoint directory holds its parameters in Orbax's form; a directory ``params`` of the
    user's own does not count."""
    return any((directory / PARAMS_DIRECTORY / marker).is_file() for marker in _MARKERS)


def save_params(params: Params, directory: Path) -> None:
    """Writes all parameters below ``directory/params`` and waits until they are on the disk."""
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((directory / PARAMS_DIRECTORY).absolute(), params)
        checkpointer.wait_until_finished()


def load_params(config: Decoder, directory: Path, dtype: DTypeLike) -> Params:
    """Reads the parameters of `config`, cast to `dtype` where the spec pins none.

    Raises:
        CheckpointError: the stored tree or a shape differs from the configuration's.
    """
    path = (directory / PARAMS_DIRECTORY).absolute()
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            return checkpointer.restore(path, abstract_params(config.spec(), dtype))
    except (ValueError, KeyError, FileNotFoundError) as error:
        raise CheckpointError(f"{path} does not hold the parameters of this model: {error}") from error
