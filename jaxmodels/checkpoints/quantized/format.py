"""What a format of quantised weights is, and reading a checkpoint in one as if it were not quantised."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Protocol, TypeAlias

import numpy as np

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.safetensors_io import TensorInfo, TensorReader, missing_tensor_message

Infos: TypeAlias = Mapping[str, TensorInfo]
Arrays: TypeAlias = Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """One weight and the tensors that hold it.

    Attributes:
        name: the weight's name in a checkpoint that is not quantised.
        shape: the weight's shape.
        dtype: the dtype that it is decoded to.
        tensors: names of the stored tensors by what they are to `decode`.
        decode: the weight, from the stored tensors by what they are.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    tensors: Mapping[str, str]
    decode: Callable[[Arrays], np.ndarray]


class Format(Protocol):
    """How the quantised weights of a checkpoint are stored. One small frozen dataclass per format."""

    def weights(self, tensors: TensorReader) -> Iterator[StoredWeight]:
        """Every weight that is stored quantised, found by the names and dtypes of the stored tensors.

        Raises:
            CheckpointError: a part of a weight is missing, or the parts do not fit each other.
        """

    def is_dropped(self, name: str) -> bool:
        """Whether a stored tensor concerns activations or caches alone, and is left unread."""


@dataclass(frozen=True)
class InputsFirst:
    """A `Format` for models whose layers keep inputs before outputs; `form` has stored them the other way."""

    form: Format

    def weights(self, tensors: TensorReader) -> Iterator[StoredWeight]:
        """See `Format`."""
        return map(_transposed, self.form.weights(tensors))

    def is_dropped(self, name: str) -> bool:
        """See `Format`."""
        return self.form.is_dropped(name)


def _transposed(weight: StoredWeight) -> StoredWeight:
    def decode(arrays: Arrays) -> np.ndarray:
        return np.ascontiguousarray(weight.decode(arrays).T)

    return replace(weight, shape=weight.shape[::-1], decode=decode)


@dataclass(frozen=True)
class Dequantized:
    """A `TensorReader` over a checkpoint with quantised weights, which are decoded as they are read."""

    stored: TensorReader
    infos: Infos
    weights: Mapping[str, StoredWeight]

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`; see `TensorReader`."""
        weight = self.weights.get(name)
        if weight is None:
            return self.stored.read(name)
        return weight.decode({role: self.stored.read(part) for role, part in weight.tensors.items()})


def decoded(tensors: TensorReader, form: Format) -> TensorReader:
    """The same tensors with one weight in place of the parts of each that `form` finds.

    Raises:
        CheckpointError: see `Format.weights`.
    """
    weights = {weight.name: weight for weight in form.weights(tensors)}
    whole = {part: weight for weight in weights.values() for part in weight.tensors.values()}
    infos: dict[str, TensorInfo] = {}
    for name, info in tensors.infos.items():
        weight = whole.get(name)
        if weight is not None:
            infos.setdefault(
                weight.name,
                TensorInfo(name=weight.name, shape=weight.shape, dtype=weight.dtype, file=info.file),
            )
        elif not form.is_dropped(name):
            infos[name] = info
    return Dequantized(tensors, infos, weights)


def parts_of(infos: Infos, needed: Mapping[str, str], optional: Mapping[str, str]) -> dict[str, str]:
    """The tensors of one weight by what they are: all that are `needed`, and those `optional` that are there.

    Raises:
        CheckpointError: one that is needed is not stored.
    """
    for name in needed.values():
        if name not in infos:
            raise CheckpointError(missing_tensor_message(name, infos))
    return {**needed, **{role: name for role, name in optional.items() if name in infos}}


def misfit(infos: Infos, parts: Mapping[str, str], expected: str) -> CheckpointError:
    """The error for stored tensors whose shapes do not fit each other; `expected` says which would."""
    shapes = ", ".join(f"{name!r} {list(infos[name].shape)}" for name in parts.values())
    first = infos[next(iter(parts.values()))]
    return CheckpointError(
        f"{first.file}: the parts of a quantised weight have shapes that do not fit each other: {shapes}; "
        f"expected {expected}"
    )
