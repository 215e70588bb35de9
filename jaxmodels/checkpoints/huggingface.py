"""Parameters of Hugging Face checkpoint directories, both ways, one tensor at a time."""

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.extra import as_stored
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.pickles import open_checkpoint
from jaxmodels.checkpoints.quantized import dequantized, without_quantization
from jaxmodels.checkpoints.ranges import check_range
from jaxmodels.checkpoints.safetensors_io import (
    TensorReader,
    TensorToWrite,
    write_tensors,
)
from jaxmodels.checkpoints.unreadable import check_readable
from jaxmodels.layers.spec import Params, param_dtype, unflatten, walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import FAMILIES, config_to_hf, read_hf_config
from jaxmodels.models.family import Part, Tensor, Weight
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.text_part import text_part

CONFIG_FILE = "config.json"

# Called with each tensor's name and bytes, once it is read or written.
Progress: TypeAlias = Callable[[str, int], None]

# Another tensor of the same shape, for one in float32 that is laid out as a checkpoint stores it.
TensorEdit: TypeAlias = Callable[[np.ndarray], np.ndarray]


def read_config(
    directory: Path, *, strict: bool = False, text_only: bool = False
) -> tuple[Decoder, dict[str, Any]]:
    """The model of a directory's ``config.json``, and the keys of it that do not describe the model.

    `strict` and `text_only` are those of `config_from_hf`.

    Raises:
        CheckpointError: the file is missing or no JSON object, or describes no model of the zoo; the message
            names the file, the key and the value.
    """
    values = read_values(directory, text_only=text_only)
    try:
        return read_hf_config(values, strict=strict)
    except ConfigError as error:
        raise CheckpointError(f"{directory / CONFIG_FILE}: {error}") from error


def read_values(directory: Path, *, text_only: bool = False) -> dict[str, Any]:
    """The contents of a directory's ``config.json`` but for how the weights are stored, or those of its
    language model alone.

    Raises:
        CheckpointError: the file is missing or no JSON object, the weights are stored in an unknown way, or
            the language model that it holds is of no known family.
    """
    check_readable(directory)
    file = directory / CONFIG_FILE
    try:
        values = without_quantization(read_json_object(file))
        return text_part(values) if text_only else values
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error


def open_weights(directory: Path, *, allow_pickle: bool = False) -> TensorReader:
    """The tensors of a directory, decoded where ``config.json`` says that weights are quantised.

    Raises:
        CheckpointError: what `open_checkpoint` and `dequantized` raise.
    """
    tensors = open_checkpoint(directory, allow_pickle=allow_pickle)
    file = directory / CONFIG_FILE
    try:
        return dequantized(tensors, directory, read_json_object(file))
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error


def config_dict(config: Decoder, inert: Mapping[str, Any]) -> dict[str, Any]:
    """The contents of ``config.json``: what `config_to_hf` writes, and the keys that `read_config` kept.

    Raises CheckpointError where the model has no such form.
    """
    try:
        return {**inert, **config_to_hf(config)}
    except ConfigError as error:
        raise CheckpointError(str(error)) from error


def write_config(values: Mapping[str, Any], directory: Path) -> None:
    """Writes ``config.json``."""
    (directory / CONFIG_FILE).write_text(json.dumps(values, indent=2, sort_keys=True) + "\n", "utf-8")


def stored_dtype(tensors: TensorReader) -> str:
    """The dtype that most of a checkpoint's numbers have."""
    sizes: dict[str, int] = {}
    for info in tensors.infos.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + int(np.prod(info.shape))
    return max(sizes, key=lambda dtype: sizes[dtype])


def load_params(
    config: Decoder, tensors: TensorReader, dtype: DTypeLike, *, progress: Progress | None = None
) -> Params:
    """All parameters of `config`, read in file order; at most one tensor is held twice.

    Parameters whose spec pins a dtype keep that one. `tensors` are those that `place` gives. `progress` hears
    of each tensor, in bytes of memory.

    Raises:
        CheckpointError: a tensor cannot be read, or holds numbers beyond the range of `dtype`.
    """
    expected = FAMILIES[str(config.family)].tensors(config)
    leaves: dict[str, jax.Array] = {}
    for name, info in tensors.infos.items():
        tensor = tensors.read(name)
        for wanted in {param_dtype(part.param, dtype) for part in expected[name].parts}:
            check_range(info.name, tensor, wanted)
        num_bytes = _fill(leaves, expected[name].parts, tensor, dtype)
        if progress is not None:
            progress(info.name, num_bytes)
    return unflatten({path: leaves[path] for path, _ in walk(config.spec())})


def edit_leaves(
    config: Decoder, leaves: dict[str, jax.Array], edits: Mapping[str, Sequence[TensorEdit]]
) -> None:
    """Changes some of a checkpoint's tensors in parameters that are in memory, one tensor at a time.

    Args:
        config: the model.
        leaves: its parameters by path. Those that change are replaced in this dictionary by other arrays of
            the same dtype and sharding; no array is written to.
        edits: the changes of each tensor of the family's table, by its name, made one after another.

    Raises:
        CheckpointError: a changed tensor holds numbers beyond the range of the dtype.
    """
    tensors = FAMILIES[str(config.family)].tensors(config)
    dtype = leaves["embed/weight"].dtype
    copied: set[str] = set()
    for name, changes in edits.items():
        parts = tensors[name].parts
        shardings = {
            part.row.ours: leaves[part.row.ours].sharding for part in parts if part.row.ours in leaves
        }
        tensor = tensors[name].export(leaves).astype(np.float32)
        for change in changes:
            tensor = change(tensor)
        for wanted in {param_dtype(part.param, dtype) for part in parts}:
            check_range(name, tensor, wanted)
        for path in {part.row.ours for part in parts if part.expert is not None} - copied:
            leaves[path] = jnp.copy(leaves[path])  # one expert at a time is put in place below
            copied.add(path)
        _fill(leaves, parts, np.ascontiguousarray(tensor), dtype)
        for path, sharding in shardings.items():
            leaves[path] = jax.device_put(leaves[path], sharding)


def save_params(
    config: Decoder,
    params: Params,
    directory: Path,
    *,
    extra: TensorReader | None = None,
    max_shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> tuple[Path, ...]:
    """Writes all parameters under the family's names, in the dtypes they are held in, and `extra` as it is.

    `progress` hears of each tensor as it is handed to the file.

    Raises:
        CheckpointError: see `write_tensors`.
    """
    to_write = chain(_to_write(config, params, progress), as_stored(extra))
    if max_shard_bytes is None:
        return write_tensors(directory, to_write)
    return write_tensors(directory, to_write, max_shard_bytes)


def _fill(leaves: dict[str, jax.Array], parts: Sequence[Part], tensor: np.ndarray, dtype: DTypeLike) -> int:
    """Puts a tensor's parts into the parameters they belong to; gives their bytes."""
    num_bytes = 0
    for part in parts:
        wanted = param_dtype(part.param, dtype)
        arranged = _arrange(part.cut(tensor), part.row.axes, part.shape, wanted)
        num_bytes += arranged.nbytes
        path = part.row.ours
        if part.expert is None:
            leaf = arranged
        else:
            stack = leaves.get(path)
            stack = jnp.zeros(part.param.shape, wanted) if stack is None else stack
            leaf = _put(stack, arranged, part.expert)
        # Waiting bounds the memory: several tensors would be on their way otherwise.
        leaves[path] = jax.block_until_ready(leaf)
    return num_bytes


@functools.partial(jax.jit, donate_argnames=("stack",))
def _put(stack: jax.Array, one: jax.Array, index: int) -> jax.Array:
    return jax.lax.dynamic_update_index_in_dim(stack, one, index, 0)


def _arrange(tensor: np.ndarray, axes: str | None, shape: tuple[int, ...], dtype: np.dtype) -> jax.Array:
    """A checkpoint's tensor with our axes in `dtype`, on the device."""
    there = jax.device_put(tensor)  # on CPU without a copy: `TensorReader.read` gives the buffer away
    return there if axes is None and tensor.dtype == dtype else _rearrange(there, axes, shape, dtype)


# Axes and type are changed on the device, where it is many times faster than strided copies by numpy.
@functools.partial(jax.jit, static_argnames=("axes", "shape", "dtype"))
def _rearrange(tensor: Any, axes: str | None, shape: tuple[int, ...], dtype: np.dtype) -> Any:
    return Weight("", "", axes).load(tensor, shape).astype(dtype)


def _to_write(config: Decoder, params: Params, progress: Progress | None) -> Iterator[TensorToWrite]:
    leaves = dict(walk(params))
    for tensor in FAMILIES[str(config.family)].tensors(config).values():

        def export(tensor: Tensor = tensor) -> np.ndarray:
            array = tensor.export(leaves)
            if progress is not None:
                progress(tensor.name, array.nbytes)
            return array

        dtype = leaves[tensor.parts[0].row.ours].dtype
        yield TensorToWrite(name=tensor.name, shape=tensor.shape, dtype=dtype, read=export)
