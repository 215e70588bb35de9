"""GPTQ (https://arxiv.org/abs/2210.17323) as AutoGPTQ and GPTQModel store it.

A linear layer ``<name>`` of D inputs and F outputs is ``<name>.qweight`` [D * bits / 32, F], numbers packed
along the inputs; ``<name>.qzeros`` [G, F * bits / 32], zero points packed along the outputs;
``<name>.scales`` [G, F]; and ``<name>.g_idx`` [D], the group of each input. Groups are in order without
`desc_act`, and then `g_idx` may be left out. The first version of the form stores each zero point less one,
``"gptq_v2"`` as it is.
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
    WIDTHS,
    WORD_BITS,
    check_groups,
    from_groups,
    group_of_columns,
    read_group_size,
    read_width,
    unpacked,
)
from jaxmodels.checkpoints.safetensors_io import TensorReader
from jaxmodels.models.hf_config import ConfigError

_NUMBERS = ".qweight"
# What `checkpoint_format` calls the form, and what its zero points lack.
_ZERO_OFFSETS = {"gptq": 1, "gptq_v2": 0}


@dataclass(frozen=True)
class Gptq:
    """A `Format`.

    Attributes:
        bits: width of a number, for layers that do not show it by their `g_idx`.
        group_size: inputs that share a scale, for layers without `g_idx`; -1 means all.
        zero_offset: what is added to a stored zero point.
        dtype: that weights are decoded to.
    """

    bits: int
    group_size: int
    zero_offset: int
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
        needed = {role: f"{name}.{role}" for role in ("qweight", "qzeros", "scales")}
        parts = parts_of(infos, needed, {"g_idx": f"{name}.g_idx"})
        shapes = {role: infos[part].shape for role, part in parts.items()}
        expected = "[D * bits / 32, F], [G, F * bits / 32], [G, F] and [D]"
        if [len(shapes[role]) for role in parts] != [2, 2, 2, 1][: len(parts)]:
            raise misfit(infos, parts, expected)
        words, outputs = shapes["qweight"]
        inputs = shapes["g_idx"][0] if "g_idx" in parts else words * WORD_BITS // self.bits
        # Layers may differ in width; the number of their inputs tells.
        bits = next((bits for bits in WIDTHS if words * WORD_BITS == inputs * bits), 0)
        groups = shapes["scales"][0]
        zeros = (groups, -(-outputs * bits // WORD_BITS))
        if bits == 0 or shapes["scales"] != (groups, outputs) or shapes["qzeros"] != zeros:
            raise misfit(infos, parts, expected)
        in_order = group_of_columns(inputs, self.group_size)
        if "g_idx" not in parts and in_order[-1] + 1 != groups:
            raise misfit(infos, parts, f"{expected} with D / G = {self.group_size}")

        def decode(arrays: Arrays) -> np.ndarray:
            group = check_groups(infos[parts["scales"]], arrays.get("g_idx", in_order), groups)
            numbers, zeros = (arrays[role].view(np.uint32) for role in ("qweight", "qzeros"))
            return np.asarray(
                from_gptq(numbers, zeros, arrays["scales"], group, bits, self.zero_offset, self.dtype)
            )

        return StoredWeight(
            name=f"{name}.weight", shape=(outputs, inputs), dtype=self.dtype, tensors=parts, decode=decode
        )


def read_gptq(settings: Mapping[str, Any], dtype: str) -> Gptq:
    """The format for a ``quantization_config``; `desc_act`, `sym` and `dynamic` show in the tensors.

    Raises:
        ConfigError: a width or a form that is not read.
    """
    form = settings.get("checkpoint_format") or settings.get("format") or "gptq"
    if form not in _ZERO_OFFSETS or settings.get("is_marlin_format"):
        marlin = settings.get("is_marlin_format")
        shown = "is_marlin_format True" if marlin else f"checkpoint_format {form!r}"
        raise ConfigError(f"{shown} is laid out for one kernel; expected one of {list(_ZERO_OFFSETS)}")
    return Gptq(read_width(settings), read_group_size(settings), _ZERO_OFFSETS[form], dtype)


@functools.partial(jax.jit, static_argnames=("bits", "zero_offset", "dtype"))
def from_gptq(
    numbers: UInt32[Array, "words F"],
    zeros: UInt32[Array, "G words_out"],
    scales: Float[Array, "G F"],
    groups: Int[Array, "D"],
    bits: int,
    zero_offset: int,
    dtype: str,
) -> Float[Array, "F D"]:
    """The weight; see the module for the tensors."""
    centres = unpacked(zeros, bits, axis=1)[:, : scales.shape[1]] + zero_offset
    return from_groups(unpacked(numbers, bits, axis=0).T, centres.T, scales.T, groups, dtype)
