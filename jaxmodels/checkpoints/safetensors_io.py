"""Safetensors files: one or many shards, read and written one tensor at a time.

The format is an 8-byte little-endian header length, a JSON header, then the tensors' bytes
(https://github.com/huggingface/safetensors). The `safetensors` library checks every header. Each tensor is
read through a memory map of its own, which ends with the array: what a caller keeps is in memory once, as
pages that the system shares with the file, and what it copies and drops is not.

Maps are private, so that writing to an array changes the array alone. They are of the file that was opened,
and stay whole when another takes its name, as with our own saves. A file that somebody else shortens in
place takes the pages with it: using them then ends the process (SIGBUS), as does a disk that fails. Systems
without such maps, and Windows, where a mapped file cannot be replaced, read into buffers.
"""

import json
import math
import mmap
import os
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Protocol

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import lasting_path, open_file, read_json_object, told_by_name
from jaxmodels.checkpoints.host_arrays import ALIGNMENT, aligned_empty

SINGLE_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"
DEFAULT_SHARD_BYTES = 2 * 10**9

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype(np.float64),
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "I64": np.dtype(np.int64),
    "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16),
    "I8": np.dtype(np.int8),
    "U64": np.dtype(np.uint64),
    "U32": np.dtype(np.uint32),
    "U16": np.dtype(np.uint16),
    "U8": np.dtype(np.uint8),
    "BOOL": np.dtype(np.bool_),
    "C64": np.dtype(np.complex64),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclass(frozen=True, kw_only=True)
class TensorInfo:
    """What a checkpoint says of one tensor.

    Attributes:
        name: the tensor's name in the checkpoint.
        shape: its shape.
        dtype: a numpy or ml_dtypes name ("float32", "bfloat16", "float8_e4m3fn"), or the format's own code
            ("F4") where no such dtype exists; `TensorReader.read` refuses the latter.
        file: the file that holds it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    file: Path


class TensorReader(Protocol):
    """A checkpoint's tensors, by name. Reading one does not keep another in memory."""

    @property
    def infos(self) -> Mapping[str, TensorInfo]:
        """Every tensor, in the order in which reading is fastest."""

    def read(self, name: str) -> np.ndarray:
        """The tensor `name` in host memory that the caller owns."""


@dataclass(frozen=True, kw_only=True)
class TensorFiles:
    """The tensors of one or many safetensors files; made by `open_tensors`.

    The files stay open: what is read is of the files that were there then, whatever takes their names.

    Attributes:
        infos: every tensor, ordered by file and then by position in it.
        offsets: first byte of each tensor in its file.
        files: the open files, closed with this object.
    """

    infos: Mapping[str, TensorInfo]
    offsets: Mapping[str, int]
    files: Mapping[Path, BinaryIO] = field(repr=False)

    def __post_init__(self) -> None:
        for file in self.files.values():
            weakref.finalize(self, file.close)

    def read(self, name: str) -> np.ndarray:
        """The tensor `name` as a map of its file; see above. Nothing else refers to it.

        Raises:
            CheckpointError: there is no such tensor, its dtype has no numpy equivalent, or its file cannot be
                read or is shorter than when it was opened.
        """
        info = self.infos.get(name)
        if info is None:
            raise CheckpointError(missing_tensor_message(name, self.infos))
        try:
            dtype = np.dtype(info.dtype)
        except TypeError as error:
            raise CheckpointError(
                f"{info.file}: tensor {name!r} has dtype {info.dtype!r}; readable are {sorted(_DTYPES)}"
            ) from error
        file, offset = self.files[info.file], self.offsets[name]
        array = _mapped(file, offset, info.shape, dtype)
        if array is None:
            array = aligned_empty(info.shape, dtype)
            _read_into(info, file, offset, array)
        return array


@dataclass(frozen=True, kw_only=True)
class TensorToWrite:
    """One tensor for `write_tensors`.

    Attributes:
        name: its name in the checkpoint.
        shape: its shape.
        dtype: its dtype; anything `numpy.dtype` accepts.
        read: makes the array; called once, when the tensor's turn comes, and the result is dropped after it.
    """

    name: str
    shape: tuple[int, ...]
    dtype: Any
    read: Callable[[], np.ndarray]

    @property
    def num_bytes(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64)) * np.dtype(self.dtype).itemsize


def missing_tensor_message(name: str, infos: Mapping[str, TensorInfo]) -> str:
    """The message for a tensor that no file holds, with the names that resemble it."""
    leaf = name.rsplit(".", 1)[0]
    similar = [other for other in infos if leaf in other or other.endswith("." + name)][:3]
    hint = f"; similar names: {similar}" if similar else ""
    places = ", ".join(sorted({str(info.file) for info in infos.values()})[:3]) or "the checkpoint"
    return f"no tensor {name!r} among the {len(infos)} tensors of {places}{hint}"


def weight_files(directory: Path, single: str, index: str) -> tuple[dict[str, Path], dict[str, str]]:
    """The weight files of a checkpoint directory, for any format with Hugging Face's index convention.

    Args:
        directory: the checkpoint.
        single: name of the file when there is one.
        index: name of the JSON index when there are several.

    Returns:
        `files`, from name to path, and `weight_map`, from tensor to file name; `weight_map` is empty for a
        single file, and both are empty when the directory holds neither.

    Raises:
        CheckpointError: the index is corrupt, or a shard that it names is absent.
    """
    if os.path.lexists(directory / single):
        return {single: directory / single}, {}
    index_path = directory / index
    if not os.path.lexists(index_path):
        return {}, {}
    weight_map = read_json_object(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{index_path}: 'weight_map' is {weight_map!r}; it must map tensor names to file names"
        )
    for tensor, file in weight_map.items():
        if not isinstance(file, str) or not file or Path(file).name != file:
            raise CheckpointError(
                f"{index_path}: tensor {tensor!r} is in {file!r}; it must name a file beside the index"
            )
    files = {file: directory / file for file in sorted(set(weight_map.values()))}
    for file, path in files.items():
        if not path.exists():
            raise CheckpointError(
                f"{path} is missing: {index} names {len(files)} shards, one of them {file}; fetch it again"
            )
    return files, weight_map


def check_weight_map(weight_map: Mapping[str, str], held: Mapping[str, Iterable[str]], index: Path) -> None:
    """Raises `CheckpointError` when the index names a tensor that its shard lacks."""
    names = {file: set(tensors) for file, tensors in held.items()}
    for tensor, file in weight_map.items():
        if tensor not in names[file]:
            raise CheckpointError(
                f"{index}: tensor {tensor!r} should be in {file}, which holds {len(names[file])} tensors "
                "without it; the index and the shards are of different checkpoints"
            )


def open_tensors(directory: Path, single: str = SINGLE_FILE, index: str = INDEX_FILE) -> TensorFiles:
    """Opens the safetensors of a checkpoint directory: the file `single`, or the file `index` and its shards.

    Only headers are read. Tensors that a shard holds and the index does not list are kept, so that a caller
    notices them.

    Raises:
        CheckpointError: there are no safetensors, an index is corrupt or disagrees with its shards, a shard
            is missing, truncated or has a corrupt header, or two shards hold the same tensor.
    """
    directory = Path(directory)
    files, weight_map = weight_files(directory, single, index)
    if not files:
        found = (
            sorted(path.name for path in directory.iterdir())[:20] if directory.is_dir() else "no directory"
        )
        raise CheckpointError(f"{directory} holds neither {single} nor {index}; found {found}")
    opened: dict[Path, BinaryIO] = {}
    headers = {}
    for file, path in files.items():
        with told_by_name(path):
            opened[path] = open_file(path)
            headers[file] = _read_header(path, opened[path])
    check_weight_map(weight_map, headers, directory / index)
    infos: dict[str, TensorInfo] = {}
    offsets: dict[str, int] = {}
    for file, header in headers.items():
        for name, (info, offset) in header.items():
            if weight_map.get(name, file) != file:
                continue
            if name in infos:
                raise CheckpointError(
                    f"tensor {name!r} is both in {infos[name].file} and in {info.file}, and {index} "
                    "does not say which is meant"
                )
            infos[name], offsets[name] = info, offset
    return TensorFiles(infos=infos, offsets=offsets, files=opened)


def write_tensors(
    directory: Path,
    tensors: Iterable[TensorToWrite],
    max_shard_bytes: int = DEFAULT_SHARD_BYTES,
    stem: str = "model",
) -> tuple[Path, ...]:
    """Writes tensors as Hugging Face names them: `model.safetensors`, or numbered shards and an index; `stem`
    is what their names begin with.

    Holds one tensor at a time. A tensor larger than `max_shard_bytes` gets a shard of its own. Every file is
    on the disk (fsync) on return; use `atomic.replace_directory` around it to replace an older checkpoint.

    Returns:
        The files written.

    Raises:
        CheckpointError: two tensors share a name, a dtype is not a safetensors dtype, an array differs from
            its announced shape or dtype, or the directory already holds safetensors weights.
    """
    if max_shard_bytes <= 0:
        raise CheckpointError(f"max_shard_bytes is {max_shard_bytes}; it must be positive")
    directory = Path(directory)
    single, index_file = f"{stem}.safetensors", f"{stem}.safetensors.index.json"
    present = [
        *directory.glob(single),
        *directory.glob(index_file),
        *directory.glob(f"{stem}-*-of-*.safetensors"),
    ]
    if present:
        raise CheckpointError(f"{present[0]} exists: {directory} must not hold weights before writing")
    shards = _split(_checked(tensors), max_shard_bytes)
    if len(shards) == 1:
        _write_file(directory / single, shards[0])
        return (directory / single,)
    paths: list[Path] = []
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        _write_file(directory / name, shard)
        paths.append(directory / name)
        weight_map |= {tensor.name: name for tensor in shard}
    total = sum(tensor.num_bytes for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    with open(directory / index_file, "w", encoding="utf-8") as file:
        file.write(json.dumps(index, indent=2) + "\n")
        _sync(file.fileno(), file.flush)
    return (*paths, directory / index_file)


def _mapped(file: BinaryIO, offset: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray | None:
    """Part of a file as an array, or None where it cannot be mapped or ends before."""
    size = math.prod(shape) * dtype.itemsize
    if not size or os.name == "nt":
        return None
    before = offset % mmap.ALLOCATIONGRANULARITY
    try:
        pages = mmap.mmap(file.fileno(), before + size, access=mmap.ACCESS_COPY, offset=offset - before)
    except (OSError, ValueError):
        return None
    if hasattr(mmap, "MADV_WILLNEED"):
        pages.madvise(mmap.MADV_WILLNEED)
    return np.frombuffer(pages, np.uint8, size, before).view(dtype).reshape(shape)


def _bytes_of(array: np.ndarray) -> memoryview:
    return array.reshape(-1).view(np.uint8).data


def _read_into(info: TensorInfo, file: BinaryIO, offset: int, array: np.ndarray) -> None:
    data = _bytes_of(array)
    done = 0
    try:
        file.seek(offset)
        while done < len(data):
            got = file.readinto(data[done:])  # type: ignore[attr-defined]
            if not got:
                raise CheckpointError(
                    f"{info.file}: tensor {info.name!r} has {done} of its {len(data)} bytes; the file "
                    "was truncated after it was opened"
                )
            done += got
    except OSError as error:
        raise CheckpointError(f"{info.file}: tensor {info.name!r} cannot be read: {error}") from error


def _read_header(path: Path, file: BinaryIO) -> dict[str, tuple[TensorInfo, int]]:
    """Each tensor's description and its first byte in the file, in file order."""
    try:
        # This checks the header: JSON, dtypes, shapes, offsets, file size.
        with safe_open(lasting_path(file, path), framework="np"):
            pass
    except SafetensorError as error:
        raise CheckpointError(_describe_bad_file(path, file, error)) from error
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    described = {}
    for name, entry in sorted(header.items(), key=lambda item: item[1]["data_offsets"]):
        code = entry["dtype"]
        info = TensorInfo(
            name=name,
            shape=tuple(entry["shape"]),
            dtype=_DTYPES[code].name if code in _DTYPES else code,
            file=path,
        )
        described[name] = (info, 8 + length + entry["data_offsets"][0])
    return described


def _describe_bad_file(path: Path, file: BinaryIO, error: SafetensorError) -> str:
    """Says what is wrong with a file that the library refused: truncated, or not safetensors at all."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    length = int.from_bytes(file.read(8), "little")
    if size < 8:
        return f"{path} is truncated: it has {size} bytes, and a safetensors header alone needs 8 or more"
    if 8 + length > size:
        return (
            f"{path} is truncated or not a safetensors file: its header should have {length} bytes and "
            f"the file has {size}"
        )
    try:
        header = json.loads(file.read(length))
        ends = {name: entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"}
        last = max(ends, key=lambda name: ends[name])
        if 8 + length + ends[last] > size:
            return (
                f"{path} is truncated: tensor {last!r} ends at byte {8 + length + ends[last]} and the "
                f"file has {size}"
            )
    except (ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        pass  # the library's own message says which part of the header is wrong
    return f"{path} has a corrupt safetensors header ({error}); fetch or write it again"


def _checked(tensors: Iterable[TensorToWrite]) -> Iterator[TensorToWrite]:
    seen: set[str] = set()
    for tensor in tensors:
        if tensor.name in seen or tensor.name == "__metadata__":
            raise CheckpointError(
                f"tensor name {tensor.name!r} is reserved or given twice; names must be unique"
            )
        if np.dtype(tensor.dtype) not in _CODES:
            raise CheckpointError(
                f"tensor {tensor.name!r} has dtype {np.dtype(tensor.dtype).name}; safetensors holds "
                f"{sorted(dtype.name for dtype in _CODES)}"
            )
        seen.add(tensor.name)
        yield tensor


def _split(tensors: Iterable[TensorToWrite], max_shard_bytes: int) -> list[list[TensorToWrite]]:
    shards: list[list[TensorToWrite]] = [[]]
    size = 0
    for tensor in tensors:
        if shards[-1] and size + tensor.num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(tensor)
        size += tensor.num_bytes
    return shards


def _write_file(path: Path, tensors: Sequence[TensorToWrite]) -> None:
    # The format has no gaps between tensors. Those of odd sizes last, and wide dtypes first, keeps all others
    # where maps can be adopted without a copy, and every tensor aligned to its own item size.
    ordered = sorted(
        tensors, key=lambda tensor: (tensor.num_bytes % ALIGNMENT != 0, -np.dtype(tensor.dtype).itemsize)
    )
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}  # transformers refuses a file without it
    end = 0
    for tensor in ordered:
        start, end = end, end + tensor.num_bytes
        code = _CODES[np.dtype(tensor.dtype)]
        header[tensor.name] = {"dtype": code, "shape": list(tensor.shape), "data_offsets": [start, end]}
    encoded = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    encoded += b" " * (-(8 + len(encoded)) % ALIGNMENT)
    with open(path, "wb") as file:
        file.write(len(encoded).to_bytes(8, "little") + encoded)
        for tensor in ordered:
            file.write(_bytes_of(_produce(tensor)))
        _sync(file.fileno(), file.flush)


def _produce(tensor: TensorToWrite) -> np.ndarray:
    array = np.asarray(tensor.read())
    if array.shape != tuple(tensor.shape) or array.dtype != np.dtype(tensor.dtype):
        raise CheckpointError(
            f"tensor {tensor.name!r} came as {array.dtype.name}{list(array.shape)}; it was announced as "
            f"{np.dtype(tensor.dtype).name}{list(tensor.shape)}"
        )
    return np.ascontiguousarray(array)


def _sync(descriptor: int, flush: Callable[[], None]) -> None:
    flush()
    os.fsync(descriptor)
