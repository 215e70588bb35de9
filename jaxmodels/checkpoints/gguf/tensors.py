"""The tensors of a GGUF file under the names of `transformers`, dequantised one at a time."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.gguf.architectures import ROPE_TENSORS, architecture_of, read_config
from jaxmodels.checkpoints.gguf.edits import Edit
from jaxmodels.checkpoints.gguf.file import GGUFFile, StoredTensor
from jaxmodels.checkpoints.safetensors_io import TensorInfo, missing_tensor_message
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import FAMILIES, config_from_hf
from jaxmodels.models.hf_config import ConfigError

# Kinds of numbers that are read as they are stored; every other one is dequantised to float32.
_PLAIN = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}
_EXPERT = re.compile(r"\.experts\.(\d+)\.")
_SUFFIXES = (".weight", ".bias")


@dataclass(frozen=True)
class Place:
    """Where a tensor is: a stored tensor and, where that stacks the experts', which of them."""

    stored: StoredTensor
    expert: int | None = None


@dataclass(frozen=True)
class GGUFTensors:
    """A `TensorReader` of a GGUF file; made by `open_model`."""

    infos: Mapping[str, TensorInfo]
    places: Mapping[str, Place]
    edits: tuple[Edit, ...]
    values: Mapping[str, Any]

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`; see `TensorReader`."""
        if name not in self.places:
            raise CheckpointError(missing_tensor_message(name, self.infos))
        place = self.places[name]
        array = dequantised(place)
        for edit in self.edits:
            if edit.applies_to(place.stored.name):
                array = edit.undo(array, self.values)
        return np.ascontiguousarray(array)


def open_model(file: GGUFFile) -> tuple[dict[str, Any], Decoder, GGUFTensors]:
    """The model in a GGUF file: its ``config.json``, its configuration and its tensors, opened.

    Raises:
        CheckpointError: an architecture that is not read, or keys that are missing or out of range; the
            message names them. Tensors that are missing or too many are named by the loader.
    """
    import gguf

    architecture, values = architecture_of(file), read_config(file)
    try:
        config = config_from_hf(values)
    except ConfigError as error:
        raise CheckpointError(f"{file.path}: {error}") from error
    wanted = FAMILIES[str(config.family)].tensors(config)
    number = getattr(gguf.MODEL_ARCH, architecture.tensors)
    table = gguf.get_tensor_name_map(number, len(config.blocks))
    found = {name: _place(file, table, name) for name in wanted}
    places = {name: place for name, place in found.items() if place is not None}
    infos = {name: _info(name, place, wanted[name].shape) for name, place in places.items()}
    used = {place.stored.name for place in places.values()} | set(ROPE_TENSORS)
    infos |= {  # the loader says of these that they are not part of the model
        name: TensorInfo(name=name, shape=stored.shape, dtype="float32", file=stored.file)
        for name, stored in file.tensors.items()
        if name not in used
    }
    return values, config, GGUFTensors(infos=infos, places=places, edits=architecture.edits, values=values)


def is_plain(file: GGUFFile) -> bool:
    """Whether no tensor of the file is quantised."""
    return all(stored.kind in _PLAIN for stored in file.tensors.values())


def _place(file: GGUFFile, table: Any, name: str) -> Place | None:
    """Where the tensor that `transformers` calls `name` is in the file; None where it is not."""
    match = _EXPERT.search(name)
    plain = name if match is None else f"{name[: match.start()]}.experts.{name[match.end() :]}"
    theirs = table.get_name(plain, try_suffixes=_SUFFIXES)
    if theirs is None:
        return None
    if match is None:
        return Place(file.tensors[theirs]) if theirs in file.tensors else None
    expert = int(match[1])
    if theirs in file.tensors:
        return Place(file.tensors[theirs], expert)
    # Files of the first months of Mixtral hold each expert by itself.
    alone = theirs.replace("_exps.", f".{expert}.")
    return Place(file.tensors[alone]) if alone in file.tensors else None


def _info(name: str, place: Place, shape: tuple[int, ...]) -> TensorInfo:
    """What `read` will give, the shape as far as edits keep the number of entries."""
    stored = place.stored
    held = stored.shape if place.expert is None else stored.shape[1:]
    same_size = np.prod(held, dtype=np.int64) == np.prod(shape, dtype=np.int64)
    dtype = _PLAIN.get(stored.kind, _PLAIN["F32"]).name
    return TensorInfo(name=name, shape=shape if same_size else held, dtype=dtype, file=stored.file)


def dequantised(place: Place) -> np.ndarray:
    """The numbers of a stored tensor, as they are stored or, where they are quantised, in float32.

    Raises CheckpointError for a kind of quantisation that is not read.
    """
    import gguf

    stored = place.stored
    data = stored.data if place.expert is None else stored.data[place.expert]
    if stored.kind in _PLAIN:
        shape = stored.shape if place.expert is None else stored.shape[1:]
        return np.array(data).view(_PLAIN[stored.kind]).reshape(shape)
    try:
        return gguf.dequantize(np.asarray(data), gguf.GGMLQuantizationType[stored.kind])
    except NotImplementedError as error:
        raise CheckpointError(
            f"{stored.file}: tensor {stored.name!r} is stored as {stored.kind}, which the package gguf does "
            "not dequantise; use a file of another quantisation"
        ) from error
