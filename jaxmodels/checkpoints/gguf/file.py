"""Opening GGUF files: what their header says, and where each tensor lies.

The format is described at https://github.com/ggml-org/ggml/blob/master/docs/gguf.md; the package `gguf`, of
the same project, reads it.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.unreadable import check_file

SUFFIX = ".gguf"
_SHARD = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


@dataclass(frozen=True, kw_only=True)
class StoredTensor:
    """One tensor of a GGUF file.

    Attributes:
        name: its name in the file.
        shape: its shape, in NumPy's order of axes.
        kind: how its numbers are stored: a name of GGML's types ("F32", "BF16", "Q4_K", ...).
        data: the stored bytes or numbers, mapped from the file; leading axes are those of `shape`.
        file: the file that holds it.
    """

    name: str
    shape: tuple[int, ...]
    kind: str
    data: np.ndarray
    file: Path


@dataclass(frozen=True, kw_only=True)
class GGUFFile:
    """An opened GGUF file, or the first of the parts that a large one was split into.

    Attributes:
        path: the file.
        metadata: its keys and values.
        tensors: its tensors by name, those of all parts.
    """

    path: Path
    metadata: Mapping[str, Any]
    tensors: Mapping[str, StoredTensor]

    @property
    def architecture(self) -> str:
        """The key ``general.architecture``."""
        return str(self.metadata.get("general.architecture"))

    def value(self, key: str, default: Any = None) -> Any:
        """The value of a key of the architecture: ``value("block_count")`` is ``llama.block_count``."""
        return self.metadata.get(f"{self.architecture}.{key}", default)

    def required(self, key: str) -> Any:
        """`value` of a key that must be there.

        Raises:
            CheckpointError: it is not; the message names file and key.
        """
        value = self.value(key)
        if value is None:
            raise CheckpointError(f"{self.path}: the key '{self.architecture}.{key}' is missing")
        return value


def find_gguf(path: Path) -> Path | None:
    """The GGUF file that `path` names: itself, or the only one in a directory without a ``config.json``.

    Of a file in several parts it is the first. None where `path` is something else.

    Raises:
        CheckpointError: a directory holds several models, so that one has to be named.
    """
    if path.is_file():
        return path if path.suffix == SUFFIX else None
    if not path.is_dir() or (path / "config.json").exists():
        return None
    found = sorted(file for file in path.glob(f"*{SUFFIX}") if not _is_later_part(file))
    if len(found) > 1:
        raise CheckpointError(
            f"{path} holds {len(found)} GGUF files, {found[0].name} and others; give the path of one of them"
        )
    return found[0] if found else None


def open_gguf(path: Path) -> GGUFFile:
    """Opens a GGUF file and the parts that belong to it; tensors are mapped, not read.

    Raises:
        CheckpointError: the package `gguf` is not installed, the file is not GGUF, is truncated, or a part of
            it is missing.
    """
    readers = [(file, _reader(file)) for file in _parts(path)]
    metadata = {name: _contents(path, field) for name, field in readers[0][1].fields.items()}
    tensors: dict[str, StoredTensor] = {}
    for file, reader in readers:
        tensors |= {tensor.name: tensor for tensor in _stored(file, reader.tensors)}
    if not tensors:
        raise CheckpointError(f"{path} holds no tensors; it is a vocabulary alone, not a model")
    return GGUFFile(path=path, metadata=metadata, tensors=tensors)


def _is_later_part(file: Path) -> bool:
    match = _SHARD.fullmatch(file.name)
    return match is not None and int(match[2]) > 1


def _parts(path: Path) -> list[Path]:
    """All files of a model whose first is `path`."""
    match = _SHARD.fullmatch(path.name)
    if match is None:
        return [path]
    if int(match[2]) != 1:
        raise CheckpointError(f"{path} is part {int(match[2])} of {int(match[3])}; give the first part")
    count = int(match[3])
    parts = [path.with_name(f"{match[1]}-{i:05d}-of-{count:05d}{SUFFIX}") for i in range(1, count + 1)]
    for part in parts:
        if not part.is_file():
            raise CheckpointError(f"{part} is missing: {path.name} is the first of {count} parts")
    return parts


def _reader(file: Path) -> Any:
    check_file(file)
    try:
        import gguf
    except ImportError as error:
        raise CheckpointError(
            f"{file} is a GGUF file, which needs the package gguf: pip install 'jaxmodels[gguf]'"
        ) from error
    try:
        return gguf.GGUFReader(file)
    except Exception as error:  # whatever NumPy says of bytes that are not there, or the package of others
        raise CheckpointError(
            f"{file} is not a complete GGUF file ({type(error).__name__}: {error}); fetch it "
            "again, or use safetensors of the same model"
        ) from error


def _contents(path: Path, field: Any) -> Any:
    try:
        return field.contents()
    except Exception as error:
        raise CheckpointError(f"{path}: the value of key {field.name!r} is corrupt: {error}") from error


def _stored(file: Path, tensors: Iterable[Any]) -> Iterable[StoredTensor]:
    for tensor in tensors:
        yield StoredTensor(
            name=tensor.name,
            shape=tuple(int(size) for size in reversed(tensor.shape)),
            kind=tensor.tensor_type.name,
            data=tensor.data,
            file=file,
        )
