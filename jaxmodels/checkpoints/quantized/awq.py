"""AWQ (https://arxiv.org/abs/2306.00978) as AutoAWQ stores it for its ``"gemm"`` kernels.

A linear layer ``<name>`` of D inputs and F outputs is ``<name>.qweight`` [D, F / 8] and ``<name>.qzeros``
[G, F / 8], both packed along the outputs, and ``<name>.scales`` [G, F]. From the lowest bits on, the eight
numbers of a word are outputs 0, 2, 4, 6, 1, 3, 5, 7.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from jaxmodels.checkpoints.quantized.format import Arrays, Infos, StoredWeight, misfit, parts_of
from jaxmodels.checkpoints.quantized.packed import (
    from_groups,
    group_of_columns,
    read_group_size,
    read_width,
    unpacked,
)
from jaxmodels.checkpoints.safetensors_io import TensorReader
from jaxmodels.models.hf_config import ConfigError

_NUMBERS = ".qweight"
_BITS = 4
_PER_WORD = 8
# The place of each output in its word.
_ORDER = (0, 4, 1, 5, 2, 6, 3, 7)


@dataclass(frozen=True)
class Awq:
    """A `Format`. group_size: inputs that share a scale, -1 for all. dtype: that weights are decoded to."""

    group_size: int
    dtype: str

    def weights(self, tensors: TensorReader) -> Iterator[StoredWeight]:
        """See `Format`."""
        for name, info in tensors.infos.items():
            if name.endswith(_NUMBERS) and info.dtype == "int32":
                yield self._weight(tensors.infos, name.removesuffix(_NUMBERS))

    def is_dropped(self, name: str) -> bool:
        """See `Format`."""
        return False

    def _weight(self, infos: Infos, name: str) -> StoredWeight:
        parts = parts_of(infos, {role: f"{name}.{role}" for role in ("qweight", "qzeros", "scales")}, {})
        expected = f"[D, F / 8], [G, F / 8] and [G, F] with D / G = {self.group_size}"
        if any(len(infos[part].shape) != 2 for part in parts.values()):
            raise misfit(infos, parts, expected)
        inputs, words = infos[parts["qweight"]].shape
        groups = 1 if self.group_size == -1 else -(-inputs // self.group_size)
        scales, zeros = infos[parts["scales"]].shape, infos[parts["qzeros"]].shape
        if scales != (groups, words * _PER_WORD) or zeros != (groups, words):
            raise misfit(infos, parts, expected)

        def decode(arrays: Arrays) -> np.ndarray:
            numbers, zeros = (arrays[role].view(np.uint32) for role in ("qweight", "qzeros"))
            group = group_of_columns(inputs, self.group_size)
            return np.asarray(from_awq(numbers, zeros, arrays["scales"], group, self.dtype))

        return StoredWeight(
            name=f"{name}.weight", shape=(scales[1], inputs), dtype=self.dtype, tensors=parts, decode=decode
        )


def read_awq(settings: Mapping[str, Any], dtype: str) -> Awq:
    """The format for a ``quantization_config``.

    Raises:
        ConfigError: a width or a form that is not read.
    """
    form = settings.get("version") or settings.get("format") or "gemm"
    if str(form).lower() != "gemm":
        raise ConfigError(f"version {form!r} is laid out for other kernels; expected 'gemm'")
    if settings.get("zero_point") is False:
        raise ConfigError("zero_point False is not read; expected True")
    if read_width(settings) != _BITS:
        raise ConfigError(f"bits is {settings['bits']!r}; expected {_BITS}")
    return Awq(read_group_size(settings), dtype)


@functools.partial(jax.jit, static_argnames=("dtype",))
def from_awq(
    numbers: UInt32[Array, "D words"],
    zeros: UInt32[Array, "G words"],
    scales: Float[Array, "G F"],
    groups: Int[Array, "D"],
    dtype: str,
) -> Float[Array, "F D"]:
    """The weight; see the module for the tensors."""
    ordered, centres = (unpacked(words, _BITS, axis=1, order=_ORDER) for words in (numbers, zeros))
    return from_groups(ordered.T, centres.T, scales.T, groups, dtype)
