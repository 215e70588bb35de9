"""Parameters as an Orbax checkpoint: sharded arrays are written and read by the hosts that hold them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmodels.checkpoints.atomic import ORBAX_DIRECTORY, ORBAX_MARKERS
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checks import shown
from jaxmodels.layers.memory_order import ordered_params
from jaxmodels.layers.spec import Params, abstract_params, unflatten, walk
from jaxmodels.models.decoder import Decoder

# Files of Orbax's own, of which each version that could write ours leaves one at least.
_MARKERS = (*ORBAX_MARKERS, "_sharding", "manifest.ocdbt")

_CONVERT_AGAIN = "convert the model again from its Hugging Face form"
_OLD_LAYOUT = (
    ". Checkpoints of this form from before projections were stored [out, in] have other shapes: "
    f"{_CONVERT_AGAIN}"
)
# Parameters that were joined in one before they were stored by part.
_JOINED = ("w_in", "b_in", "w_select")


def is_orbax(directory: Path) -> bool:
    """Whether a checkpoint directory holds its parameters in Orbax's form; a directory ``params`` of the
    user's own does not count."""
    return any((directory / ORBAX_DIRECTORY / marker).is_file() for marker in _MARKERS)


def save_params(params: Params, directory: Path) -> None:
    """Writes all parameters below ``directory/params`` and waits until they are on the disk."""
    with _checkpointer() as checkpointer:
        checkpointer.save((directory / ORBAX_DIRECTORY).absolute(), params)
        checkpointer.wait_until_finished()


def load_params(
    config: Decoder, directory: Path, dtype: DTypeLike, shardings: Params | None = None
) -> Params:
    """Reads the parameters of `config`, cast to `dtype` where the spec pins none, to the default device or,
    with a tree of `shardings`, each slice to its own.

    The devices that they were saved from need not exist.

    Raises:
        CheckpointError: the stored tree or a shape differs from the configuration's, or a file is corrupt.
    """
    path = (directory / ORBAX_DIRECTORY).absolute()
    spec = config.spec()
    stored = _check_stored(config, path)
    default_device = jnp.zeros(()).sharding
    places = {} if shardings is None else dict(walk(shardings))
    wanted = {
        name: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=places.get(name, default_device))
        for name, leaf in walk(abstract_params(spec, dtype))
    }
    try:
        with _checkpointer() as checkpointer:
            restored = checkpointer.restore(path, unflatten(wanted, stored))
            return ordered_params(spec, unflatten(dict(walk(restored)), spec))
    except Exception as error:  # Orbax, TensorStore and the codecs below raise many kinds
        raise CheckpointError(_damaged(path, error)) from error


def _check_stored(config: Decoder, path: Path) -> Mapping[str, Any]:
    """Compares what the checkpoint says of its parameters with the model, before one is read.

    Returns:
        The stored tree, with a description of each parameter. Orbax restores this structure alone, and some
        checkpoints have no dicts for layers without parameters.
    """
    try:
        with _checkpointer() as checkpointer:
            tree = checkpointer.metadata(path).item_metadata.tree
            stored = dict(walk(tree))
    except Exception as error:  # as in `load_params`
        raise CheckpointError(_damaged(path, error)) from error
    layers = 1 + max((int(name.split("/")[1]) for name in stored if name.startswith("blocks/")), default=-1)
    if layers != len(config.blocks):
        raise CheckpointError(
            f"{path} holds {layers} layers, the configuration beside it describes {len(config.blocks)} "
            "(num_hidden_layers); they are of different models"
        )
    expected = dict(walk(config.spec()))
    joined = [name for name in stored if name not in expected and name.rsplit("/", 1)[-1] in _JOINED]
    if joined:
        raise CheckpointError(
            f"{path} holds the parameter {joined[0]!r}, which this version stores in parts: {_CONVERT_AGAIN}"
        )
    for name in (*expected, *stored):
        if name not in stored or name not in expected:
            what = "lacks the parameter" if name in expected else "has a parameter that the model lacks,"
            raise CheckpointError(f"{path} {what} {name!r}; the configuration beside it is of another model")
    for name, param in expected.items():
        if tuple(stored[name].shape) != param.shape:
            raise CheckpointError(
                f"{path}: parameter {name!r} has shape {list(stored[name].shape)}, the configuration asks "
                f"for {list(param.shape)}{_OLD_LAYOUT}"
            )
        if not jnp.issubdtype(stored[name].dtype, jnp.floating):
            raise CheckpointError(
                f"{path}: parameter {name!r} has dtype {stored[name].dtype}, but weights are floating-point"
            )
    return tree


def _damaged(path: Path, error: Exception) -> str:
    return f"{path} does not hold the parameters of this model, or is damaged: {shown(error, 400)}"


def _checkpointer() -> Any:
    import orbax.checkpoint as ocp  # takes as long as all else together, and most loads need none

    return ocp.StandardCheckpointer()
