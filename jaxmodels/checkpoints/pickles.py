"""PyTorch pickles (`pytorch_model.bin`), behind the same interface as safetensors, and only on request.

Unpickling can run code. `torch.load(weights_only=True)` restricts it to tensors, which is a defence and not a
guarantee, so a caller must ask for it.
"""

import weakref
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import lasting_path, open_file, told_by_name
from jaxmodels.checkpoints.safetensors_io import (
    INDEX_FILE,
    SINGLE_FILE,
    TensorInfo,
    TensorReader,
    check_weight_map,
    missing_tensor_message,
    open_tensors,
    weight_files,
)

PICKLE_FILE = "pytorch_model.bin"
PICKLE_INDEX_FILE = "pytorch_model.bin.index.json"

# Pages of a memory map stay resident until it is closed, so it is reopened after reading this much.
_REOPEN_BYTES = 256 * 2**20

# torch's name: ours, and for those that torch cannot hand to numpy the integer type to pass through.
_DTYPES: Mapping[str, tuple[str, str | None]] = {
    "torch.float64": ("float64", None),
    "torch.float32": ("float32", None),
    "torch.float16": ("float16", None),
    "torch.bfloat16": ("bfloat16", "int16"),
    "torch.float8_e4m3fn": ("float8_e4m3fn", "uint8"),
    "torch.float8_e5m2": ("float8_e5m2", "uint8"),
    "torch.int64": ("int64", None),
    "torch.int32": ("int32", None),
    "torch.int16": ("int16", None),
    "torch.int8": ("int8", None),
    "torch.uint8": ("uint8", None),
    "torch.bool": ("bool", None),
    "torch.complex64": ("complex64", None),
}


@dataclass(kw_only=True)
class PickleFiles:
    """The tensors of one or many pickles; made by `read_pickle`. One file is unpickled at a time.

    Attributes:
        infos: every tensor, ordered by file.
        files: the open files, closed with this object.
    """

    infos: Mapping[str, TensorInfo]
    files: Mapping[Path, BinaryIO] = field(repr=False)
    _open_file: Path | None = field(default=None, repr=False)
    _open_tensors: Mapping[str, Any] = field(default_factory=dict, repr=False)
    _is_mapped: bool = field(default=False, repr=False)
    _bytes_read: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        for file in self.files.values():
            weakref.finalize(self, file.close)

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`, copied to memory that the caller owns.

        Raises:
            CheckpointError: there is no such tensor, its dtype has no numpy equivalent, or its file can no
                longer be read.
        """
        info = self.infos.get(name)
        if info is None:
            raise CheckpointError(missing_tensor_message(name, self.infos))
        if info.file != self._open_file or self._bytes_read > _REOPEN_BYTES:
            self._open_tensors = {}  # closes the old map first
            self._open_tensors, self._is_mapped = _load(info.file, self.files[info.file])
            self._open_file, self._bytes_read = info.file, 0
        tensor = self._open_tensors[name]
        if str(tensor.dtype) not in _DTYPES:
            raise CheckpointError(
                f"{info.file}: tensor {name!r} has dtype {tensor.dtype}; readable are {sorted(_DTYPES)}"
            )
        array = _to_numpy(tensor)
        self._bytes_read += array.nbytes if self._is_mapped else 0
        return array


def open_checkpoint(directory: str | Path, *, allow_pickle: bool = False) -> TensorReader:
    """Opens the weights of a checkpoint directory: safetensors where there are any, else a pickle if allowed.

    Raises:
        CheckpointError: there are no weights, or only pickles and `allow_pickle` is False, or whatever
            `open_tensors` and `read_pickle` raise.
    """
    directory = Path(directory)
    has_safetensors = any((directory / name).exists() for name in (SINGLE_FILE, INDEX_FILE))
    pickles = [directory / name for name in (PICKLE_FILE, PICKLE_INDEX_FILE) if (directory / name).exists()]
    if has_safetensors or not pickles:
        return open_tensors(directory)
    if not allow_pickle:
        raise CheckpointError(
            f"{pickles[0]} is a pickle, which can run code when it is read, and there are no safetensors "
            "beside it; pass allow_pickle=True if you trust its source"
        )
    return read_pickle(directory)


def read_pickle(directory: str | Path, single: str = PICKLE_FILE) -> PickleFiles:
    """Opens the pickle `single`, or an index and its shards. Only for files from a source that you trust.

    Raises:
        CheckpointError: torch is not installed, there is no such file, a shard is missing, truncated or holds
            anything but named tensors, or the index disagrees with the shards.
    """
    directory = Path(directory)
    files, weight_map = weight_files(directory, single, PICKLE_INDEX_FILE)
    if not files:
        raise CheckpointError(f"{directory} holds neither {single} nor {PICKLE_INDEX_FILE}")
    held = {}
    opened: dict[Path, BinaryIO] = {}
    infos: dict[str, TensorInfo] = {}
    for file, path in files.items():
        with told_by_name(path):
            opened[path] = open_file(path)
        tensors, _ = _load(path, opened[path])
        held[file] = list(tensors)
        for name, tensor in tensors.items():
            if weight_map.get(name, file) != file:
                continue
            if name in infos:
                raise CheckpointError(f"tensor {name!r} is both in {infos[name].file} and in {path}")
            dtype = _DTYPES.get(str(tensor.dtype), (str(tensor.dtype), None))[0]
            infos[name] = TensorInfo(name=name, shape=tuple(tensor.shape), dtype=dtype, file=path)
    check_weight_map(weight_map, held, directory / PICKLE_INDEX_FILE)
    return PickleFiles(infos=infos, files=opened)


def _load(path: Path, file: BinaryIO) -> tuple[dict[str, Any], bool]:
    """The tensors of a file, and whether they are a memory map of it."""
    try:
        import torch
    except ImportError as error:
        raise CheckpointError(
            f"reading the pickle {path} needs PyTorch: pip install 'jaxmodels[torch]'"
        ) from error
    place = lasting_path(file, path)
    is_mapped = zipfile.is_zipfile(place)  # torch < 1.6 wrote a format that cannot be mapped
    try:
        tensors = torch.load(place, map_location="cpu", weights_only=True, mmap=is_mapped)
    except Exception as error:  # torch raises many kinds: UnpicklingError, RuntimeError, EOFError, ...
        raise CheckpointError(f"{path} is not a readable pickle of tensors: {error}") from error
    if not isinstance(tensors, dict):
        raise CheckpointError(f"{path} holds a {type(tensors).__name__}; it must hold a dict of tensors")
    for name, tensor in tensors.items():
        if not isinstance(name, str) or not isinstance(tensor, torch.Tensor):
            raise CheckpointError(
                f"{path}: {name!r} is a {type(tensor).__name__}; a checkpoint must map names to tensors"
            )
    return tensors, is_mapped


def _to_numpy(tensor: Any) -> np.ndarray:
    import torch

    name, through = _DTYPES[str(tensor.dtype)]
    tensor = tensor.detach().contiguous()
    array = tensor.numpy() if through is None else tensor.view(getattr(torch, through)).numpy()
    return np.array(array).view(_NUMPY[name])


_NUMPY = {name: np.dtype(getattr(ml_dtypes, name) if through else name) for name, through in _DTYPES.values()}
