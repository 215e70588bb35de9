"""What a layout of draft heads is: one published form, read as a drafter and written from one."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from jaxmodels.checkpoints.arguments import default_dtype
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.huggingface import CONFIG_FILE, exported, read_params, stored_dtype
from jaxmodels.checkpoints.pickles import open_checkpoint
from jaxmodels.checkpoints.registered import place_registered
from jaxmodels.checkpoints.safetensors_io import TensorReader, TensorToWrite
from jaxmodels.layers.spec import Params
from jaxmodels.models.config_keys import check_unknown, unknown_keys
from jaxmodels.models.family import Table
from jaxmodels.models.hf_config import ConfigReader
from jaxmodels.models.language_model import LanguageModel


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A directory with a draft head.

    Attributes:
        directory: where it is.
        values: its ``config.json``.
        tensors: its tensors.
        target: the model that it is to draft for, None where that is not known.
        dtype: of the parameters; None for what they would have by default.
    """

    directory: Path
    values: Mapping[str, Any]
    tensors: TensorReader
    target: LanguageModel | None
    dtype: np.dtype | None

    @property
    def file(self) -> Path:
        """The configuration, for messages."""
        return self.directory / CONFIG_FILE

    def reader(self, kind: str) -> ConfigReader:
        """A reader of the configuration, which messages call that of a `kind`."""
        return ConfigReader(self.values, f"{self.file}: config of {kind}")


@dataclass(frozen=True, kw_only=True)
class Written:
    """What `save_drafter` writes.

    Attributes:
        values: the ``config.json``.
        tensors: all of them.
        stem: what the name of their file begins with.
    """

    values: Mapping[str, Any]
    tensors: Iterable[TensorToWrite]
    stem: str = "model"


class Opening(Protocol):
    """How the tensors of a directory are opened."""

    def __call__(self, directory: Path, *, allow_pickle: bool) -> TensorReader: ...


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One published form of draft heads.

    Attributes:
        name: its heads have this as their `layout`; see `forms` for how its files are known.
        read: the drafter of a directory. Raises CheckpointError, ConfigError or ValueError.
        write: the form of a drafter whose head has this layout.
        open: its tensors, where they lie in files of other names.
    """

    name: str
    read: Callable[[Stored], Any]
    write: Callable[[Any], Written]
    open: Opening = open_checkpoint


def read_head_params(table: Table[Any], head: Any, stored: Stored) -> Params:
    """The parameters of a head, by their table.

    Raises CheckpointError where a tensor is missing, of another shape, or in no row of the table.
    """
    placed = place_registered(table, head, stored.tensors, stored.values)
    dtype = default_dtype(stored_dtype(placed)) if stored.dtype is None else stored.dtype
    return read_params(table.tensors(head), head.spec(), placed, dtype)


def write_head_params(table: Table[Any], head: Any, params: Params) -> Iterable[TensorToWrite]:
    """The tensors of a head, by their table."""
    return exported(table.tensors(head).values(), params)


def check_all_read(reader: ConfigReader, inert: Iterable[str] = ()) -> None:
    """Raises ConfigError where a configuration has keys that nobody read and that may change the head."""
    check_unknown(reader.name, unknown_keys(reader.unread(), inert), strict=False)


def target_of(stored: Stored, why: str) -> LanguageModel:
    """The target; raises CheckpointError, which says `why` it must be known, where it is not given."""
    if stored.target is None:
        raise CheckpointError(f"{stored.file}: {why}; give load_drafter the model as its target")
    return stored.target


def integers(name: str, values: np.ndarray) -> TensorToWrite:
    """A tensor of integers or flags, which is no parameter."""
    return TensorToWrite(name=name, shape=values.shape, dtype=values.dtype, read=lambda: values)
