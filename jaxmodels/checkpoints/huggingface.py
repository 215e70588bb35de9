"""Parameters of Hugging Face checkpoint directories, both ways, one tensor at a time."""

import json
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from jaxmodels.checkpoints.draft_heads.forms import check_is_no_head
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.extra import as_stored
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.host_arrays import adoptable, aligned_empty, copy_into, copying_threads
from jaxmodels.checkpoints.pickles import open_checkpoint
from jaxmodels.checkpoints.quantized import dequantized, without_quantization
from jaxmodels.checkpoints.quantized.writing import Compressed, as_arrays, compressed
from jaxmodels.checkpoints.ranges import check_range, is_narrower
from jaxmodels.checkpoints.safetensors_io import (
    TensorReader,
    TensorToWrite,
    write_tensors,
)
from jaxmodels.checkpoints.sharded_leaves import ShardedLeaves
from jaxmodels.checkpoints.unreadable import check_readable
from jaxmodels.layers.memory_order import ordered
from jaxmodels.layers.spec import Params, ParamTree, param_dtype, unflatten, walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import FAMILIES, config_to_hf, read_hf_config
from jaxmodels.models.family import Part, Tensor
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.text_part import text_part

CONFIG_FILE = "config.json"

# Called with each tensor's name and bytes, once it is read or written.
Progress: TypeAlias = Callable[[str, int], None]

# By the paths of parameters that are not held as they are read: what is held, made of the values in float32.
Held: TypeAlias = Mapping[str, Callable[[jax.Array], Any]]

# Another tensor of the same shape in float32, of numpy or JAX, for one that is laid out as it is stored.
TensorEdit: TypeAlias = Callable[[Any], Any]


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
        CheckpointError: the file is missing or no JSON object, describes a draft head, the weights are stored
            in an unknown way, or the language model that it holds is of no known family.
    """
    check_readable(directory)
    file = directory / CONFIG_FILE
    contents = read_json_object(file)
    check_is_no_head(contents, file)
    try:
        values = without_quantization(contents)
        return text_part(values) if text_only else values
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error


def open_weights(
    directory: Path, *, allow_pickle: bool = False, decoded_to: str | None = None
) -> TensorReader:
    """The tensors of a directory, decoded where ``config.json`` says that weights are quantised, to the dtype
    that it gives the model or to `decoded_to`.

    Raises:
        CheckpointError: what `open_checkpoint` and `dequantized` raise.
    """
    tensors = open_checkpoint(directory, allow_pickle=allow_pickle)
    file = directory / CONFIG_FILE
    try:
        values = read_json_object(file)
        values = values if decoded_to is None else {**values, "dtype": decoded_to}
        return dequantized(tensors, directory, values)
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
    """Writes ``config.json``.

    Raises CheckpointError where a value has no JSON form.
    """
    try:
        text = json.dumps(values, indent=2, sort_keys=True)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"metadata has no JSON form: {error}; use texts, numbers and lists") from error
    (directory / CONFIG_FILE).write_text(text + "\n", "utf-8")


def stored_dtype(tensors: TensorReader) -> str:
    """The dtype that most of a checkpoint's numbers have."""
    sizes: dict[str, int] = {}
    for info in tensors.infos.values():
        sizes[info.dtype] = sizes.get(info.dtype, 0) + int(np.prod(info.shape))
    return max(sizes, key=lambda dtype: sizes[dtype])


def load_params(
    config: Decoder,
    tensors: TensorReader,
    dtype: DTypeLike,
    *,
    progress: Progress | None = None,
    shardings: Params | None = None,
    held: Held | None = None,
) -> Params:
    """All parameters of `config`, read in file order; at most one tensor is held twice.

    Parameters whose spec pins a dtype keep that one. `tensors` are those that `place` gives. `progress` hears
    of each tensor, in bytes of memory. With `shardings`, a tree like the parameters', each device is given
    its slice of a tensor alone, and of tensors that are mapped from files no more is read. Of the
    parameters in `held`, what it makes of one is kept as soon as that one is whole.

    Raises:
        CheckpointError: a tensor cannot be read, or holds numbers beyond the range of `dtype`.
    """
    expected = FAMILIES[str(config.family)].tensors(config)
    return read_params(
        expected, config.spec(), tensors, dtype, progress=progress, shardings=shardings, held=held
    )


def read_params(
    expected: Mapping[str, Tensor],
    spec: ParamTree,
    tensors: TensorReader,
    dtype: DTypeLike,
    *,
    progress: Progress | None = None,
    shardings: Params | None = None,
    held: Held | None = None,
) -> Params:
    """All parameters of `spec` from the tensors of any family's model; see `load_params`.

    expected: the tensors of the checkpoint by name, as `Family.tensors` gives them; `tensors` has no others.
    """
    made: dict[str, Any] = {}
    held = {} if held is None else held
    expected = {name: _in_float32(tensor, held) for name, tensor in expected.items()}
    with copying_threads() as threads:
        leaves: Leaves
        if shardings is None:
            leaves = _Leaves(dtype, threads)
        else:
            leaves = ShardedLeaves(dtype, threads, dict(walk(shardings)))
        for name, info in tensors.infos.items():
            tensor = tensors.read(name)
            for wanted in {param_dtype(part.param, dtype) for part in expected[name].parts}:
                check_range(info.name, tensor, wanted)
            num_bytes = sum(leaves.fill(part, tensor) for part in expected[name].parts)
            for path in leaves.done.keys() & held.keys():  # at once: the array itself can go
                made[path] = jax.block_until_ready(held[path](leaves.done.pop(path)))
            if progress is not None:
                progress(info.name, num_bytes)
    return unflatten({**leaves.done, **made}, spec)


def _in_float32(tensor: Tensor, paths: Container[str]) -> Tensor:
    """The tensor with those of its parts that fill these parameters pinned to float32."""
    parts = (
        replace(part, param=replace(part.param, dtype="float32")) if part.row.ours in paths else part
        for part in tensor.parts
    )
    return replace(tensor, parts=tuple(parts))


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
    tensors, specs = FAMILIES[str(config.family)].tensors(config), dict(walk(config.spec()))
    dtype = leaves["embed/weight"].dtype
    with copying_threads() as threads:
        edited = _Leaves(dtype, threads)
        experts = _experts(tensors[name] for name in edits)
        for name, changes in edits.items():
            parts = tensors[name].parts
            tensor: Any = tensors[name].export(leaves)
            for change in changes:
                tensor = change(tensor)
            dtypes = {param_dtype(part.param, dtype) for part in parts}
            for wanted in dtypes:
                # Edits are no reason to look for numbers at the very end of bfloat16's range.
                if is_narrower(jnp.bfloat16, wanted):
                    check_range(name, tensor, wanted)
            if len(dtypes) == 1:  # the cast is faster on the device
                tensor = jnp.asarray(tensor).astype(next(iter(dtypes)))
            for part in parts:
                path = part.row.ours
                if path in experts:
                    edited.begin_stack(path, leaves[path], experts.pop(path))
                edited.fill(part, np.asarray(tensor))
            while edited.done:  # at once, so that the array before it can go
                path, leaf = edited.done.popitem()
                leaves[path] = ordered(specs[path], jax.device_put(leaf, leaves[path].sharding))


def _experts(tensors: Iterable[Tensor]) -> dict[str, set[int]]:
    """The experts that some tensors hold, by the path of the parameter that stacks them."""
    experts: dict[str, set[int]] = {}
    for tensor in tensors:
        for part in tensor.parts:
            if part.expert is not None:
                experts.setdefault(part.row.ours, set()).add(part.expert)
    return experts


def compressed_params(config: Decoder, params: Params) -> list[Compressed]:
    """The tensors that `save_params` writes in few bits."""
    return compressed(FAMILIES[str(config.family)].tensors(config).values(), dict(walk(params)))


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

    Those in few bits are written as compressed-tensors, see `quantized.writing`.

    `progress` hears of each tensor as it is handed to the file.

    Raises:
        CheckpointError: see `write_tensors`.
    """
    tensors = FAMILIES[str(config.family)].tensors(config).values()
    to_write = chain(exported(tensors, params, progress), as_stored(extra))
    if max_shard_bytes is None:
        return write_tensors(directory, to_write)
    return write_tensors(directory, to_write, max_shard_bytes)


class Leaves(Protocol):
    """Parameters by path, as a checkpoint's tensors fill them."""

    @property
    def done(self) -> dict[str, jax.Array]:
        """Those that are whole, on their devices."""

    def fill(self, part: Part, tensor: np.ndarray) -> int:
        """Puts a part of a tensor where it belongs; gives its bytes."""


@dataclass(frozen=True)
class _Leaves:
    """Parameters by path, as a checkpoint's tensors fill them.

    Attributes:
        dtype: of the model.
        threads: for what must be copied.
        done: parameters on the device.
        stacks: those that hold an expert in each slice, in host memory until all slices are filled.
        missing: the experts that a stack waits for.
    """

    dtype: DTypeLike
    threads: Executor
    done: dict[str, jax.Array] = field(default_factory=dict)
    stacks: dict[str, np.ndarray] = field(default_factory=dict)
    missing: dict[str, set[int]] = field(default_factory=dict)

    def fill(self, part: Part, tensor: np.ndarray) -> int:
        """Puts a part of a tensor where it belongs; gives its bytes."""
        path, dtype = part.row.ours, param_dtype(part.param, self.dtype)
        ours = part.row.load(part.cut(tensor), part.shape)
        if part.expert is None:
            self._finish(part, adoptable(ours, dtype, self.threads))
        else:
            if path not in self.stacks:
                self.stacks[path] = aligned_empty(part.param.shape, dtype)
                self.missing[path] = set(range(part.param.shape[0]))
            copy_into(self.stacks[path][part.expert], ours, self.threads)
            self.missing[path].discard(part.expert)
            if not self.missing[path]:
                self._finish(part, self.stacks.pop(path))
        return ours.size * dtype.itemsize

    def begin_stack(self, path: str, values: jax.Array, experts: set[int]) -> None:
        """Lets a stack begin with these values; it is finished when these experts are filled."""
        self.stacks[path], self.missing[path] = aligned_empty(values.shape, values.dtype), experts
        copy_into(self.stacks[path], np.asarray(values), self.threads)

    def _finish(self, part: Part, array: np.ndarray) -> None:
        # On CPU JAX adopts the array. Elsewhere waiting bounds the memory: several would be on their way.
        there = ordered(part.param, jax.device_put(array))
        self.done[part.row.ours] = jax.block_until_ready(there)


def exported(
    tensors: Iterable[Tensor], params: Params, progress: Progress | None = None
) -> Iterator[TensorToWrite]:
    """The tensors of a family's model, made of its parameters one by one as they are written."""
    leaves, tensors = dict(walk(params)), list(tensors)
    in_few_bits = {one.tensor.name: one for one in compressed(tensors, leaves)}
    for tensor in tensors:

        def export(tensor: Tensor = tensor) -> np.ndarray:
            array = tensor.export(as_arrays(leaves, tensor))
            if progress is not None:
                progress(tensor.name, array.nbytes)
            return array

        if tensor.name in in_few_bits:
            yield from in_few_bits[tensor.name].to_write(leaves)
            continue
        dtype = leaves[tensor.parts[0].row.ours].dtype
        yield TensorToWrite(name=tensor.name, shape=tensor.shape, dtype=dtype, read=export)
