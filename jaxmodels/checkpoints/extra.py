"""Tensors that a checkpoint carries beyond its parameters: modules that predict further tokens.

They can be as large as several layers and nothing computes with them, so a `Model` does not hold them in
memory: it has a reader of the files they came from, which gives each tensor when the model is saved. A save
writes them bit for bit: among the others in a Hugging Face checkpoint, and in a directory of their own beside
Orbax's data.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

from jaxmodels.checkpoints.safetensors_io import TensorReader, TensorToWrite, open_tensors, write_tensors

DIRECTORY = "extra_tensors"


def as_stored(extra: TensorReader | None) -> Iterator[TensorToWrite]:
    """The tensors for `write_tensors`, each read when its turn comes."""
    if extra is not None:
        for name, info in extra.infos.items():
            read = functools.partial(extra.read, name)
            yield TensorToWrite(name=name, shape=info.shape, dtype=info.dtype, read=read)


def save(extra: TensorReader | None, directory: Path) -> None:
    """Writes the tensors, if there are any, as safetensors below ``directory/extra_tensors``.

    Raises:
        CheckpointError: see `write_tensors`, or one of them can no longer be read.
    """
    if extra is not None:
        (directory / DIRECTORY).mkdir()
        write_tensors(directory / DIRECTORY, as_stored(extra))


def load(directory: Path) -> TensorReader | None:
    """What `save` wrote.

    Raises:
        CheckpointError: see `open_tensors`.
    """
    return open_tensors(directory / DIRECTORY) if (directory / DIRECTORY).is_dir() else None
