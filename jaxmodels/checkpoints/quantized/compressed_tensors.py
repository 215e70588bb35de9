"""The compressed-tensors format (llm-compressor, vLLM; https://github.com/vllm-project/compressed-tensors).

Weights in eight bits are stored as in `scaled`. Those in fewer are packed: ``<name>_packed``
[F, D * bits / 32] along the inputs, ``<name>_scale`` [F, G], ``<name>_shape`` [2] with F and D, and where
they are not symmetric ``<name>_zero_point`` [F * bits / 32, G], packed along the outputs. All numbers are
stored with ``2 ** (bits - 1)`` added. ``<name>_g_idx`` [D] gives the group of each input where groups are
not in order. MXFP4 is stored as bytes of two numbers, ``<name>_packed`` [F, D / 2], with exponents
``<name>_scale`` [F, D / 32]; see `mxfp4`.
"""

import functools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from jaxmodels.checkpoints.quantized.format import Arrays, StoredWeight, misfit, parts_of
from jaxmodels.checkpoints.quantized.mxfp4 import BLOCK_SIZE, from_mxfp4
from jaxmodels.checkpoints.quantized.packed import (
    WIDTHS,
    WORD_BITS,
    check_groups,
    from_groups,
    group_of_columns,
    unpacked,
)
from jaxmodels.checkpoints.quantized.scaled import Block, Scaled, read_block
from jaxmodels.checkpoints.safetensors_io import TensorReader
from jaxmodels.checks import shown, whole
from jaxmodels.models.hf_config import ConfigError

FORMATS = (
    "float-quantized", "int-quantized", "naive-quantized", "pack-quantized", "mxfp4-pack-quantized", "dense",
)  # fmt: skip
_PACKED = "_packed"


@dataclass(frozen=True)
class CompressedTensors:
    """A `Format`.

    Attributes:
        scaled: reads the weights in eight bits.
        widths: bits that packed numbers may have.
        dtype: that weights are decoded to.
    """

    scaled: Scaled
    widths: tuple[int, ...]
    dtype: str

    def weights(self, tensors: TensorReader) -> Iterator[StoredWeight]:
        """See `Format`."""
        yield from self.scaled.weights(tensors)
        for name, info in tensors.infos.items():
            if name.endswith(_PACKED) and info.dtype == "int32":
                yield self._packed(tensors, name.removesuffix(_PACKED))
            elif name.endswith(_PACKED) and info.dtype == "uint8":
                yield self._halves(tensors, name.removesuffix(_PACKED))

    def _halves(self, tensors: TensorReader, name: str) -> StoredWeight:
        infos = tensors.infos
        parts = parts_of(infos, {"numbers": name + _PACKED, "scales": f"{name}_scale"}, {})
        numbers, scales = infos[parts["numbers"]].shape, infos[parts["scales"]].shape
        if len(scales) != 2 or numbers != (scales[0], scales[1] * BLOCK_SIZE // 2):
            raise misfit(infos, parts, f"[F, D / 2] and [F, D / {BLOCK_SIZE}]")

        def decode(arrays: Arrays) -> np.ndarray:
            blocks = arrays["numbers"].reshape(*scales, BLOCK_SIZE // 2)
            return np.asarray(from_mxfp4(blocks, arrays["scales"]).astype(self.dtype))

        shape = (scales[0], scales[1] * BLOCK_SIZE)
        return StoredWeight(name=name, shape=shape, dtype=self.dtype, tensors=parts, decode=decode)

    def is_dropped(self, name: str) -> bool:
        """See `Format`."""
        return self.scaled.is_dropped(name)

    def _packed(self, tensors: TensorReader, name: str) -> StoredWeight:
        infos = tensors.infos
        needed = {"numbers": name + _PACKED, "scales": f"{name}_scale", "shape": f"{name}_shape"}
        parts = parts_of(infos, needed, {"zeros": f"{name}_zero_point", "groups": f"{name}_g_idx"})
        if infos[parts["shape"]].shape != (2,):
            raise misfit(infos, parts, "a matrix, whose shape is two numbers")
        rows, columns = (int(size) for size in tensors.read(parts["shape"]))
        words = infos[parts["numbers"]].shape
        bits = next((bits for bits in self.widths if words == (rows, -(-columns * bits // WORD_BITS))), 0)
        scales = infos[parts["scales"]].shape
        zeros = infos[parts["zeros"]].shape if "zeros" in parts else None
        if not bits or len(scales) != 2 or scales[0] != rows or columns % scales[1]:
            raise misfit(infos, parts, f"[F, D * bits / 32] with bits of {self.widths}, [F, G] and [2]")
        if zeros not in (None, (-(-rows * bits // WORD_BITS), scales[1])):
            raise misfit(infos, parts, "zero points [F * bits / 32, G]")
        if "groups" in parts and infos[parts["groups"]].shape != (columns,):
            raise misfit(infos, parts, "the group of each column [D]")
        in_order = group_of_columns(columns, columns // scales[1])

        def decode(arrays: Arrays) -> np.ndarray:
            zeros = arrays["zeros"].view(np.uint32) if "zeros" in arrays else None
            numbers = arrays["numbers"].view(np.uint32)
            groups = check_groups(infos[parts["scales"]], arrays.get("groups", in_order), scales[1])
            return np.asarray(from_packed(numbers, zeros, arrays["scales"], groups, bits, self.dtype))

        return StoredWeight(name=name, shape=(rows, columns), dtype=self.dtype, tensors=parts, decode=decode)


def read_compressed_tensors(settings: Mapping[str, Any], dtype: str) -> CompressedTensors:
    """The format for a ``quantization_config``; which layers are quantised shows in the tensors.

    Raises:
        ConfigError: weights are compressed in a way that is not read.
    """
    groups = settings.get("config_groups")
    groups = list(groups.values()) if isinstance(groups, Mapping) else []
    for form in (settings.get("format"), *(group.get("format") for group in groups)):
        if form is not None and form not in (*FORMATS, "mixed-precision"):
            raise ConfigError(f"format {shown(form)} is not read; expected one of {FORMATS}")
    for key, harmless in (
        ("sparsity_config", ("format", "dense")),
        ("transform_config", ("config_groups", {})),
    ):
        found = settings.get(key)
        if found and found.get(harmless[0], harmless[1]) != harmless[1]:
            raise ConfigError(f"{key} {shown(found)} is not read; expected a checkpoint without it")
    weights = [group.get("weights") or {} for group in groups]
    widths = {each.get("num_bits", 8) for each in weights}
    packs = "pack-quantized" in (settings.get("format"), *(group.get("format") for group in groups))
    if packs and not widths <= set(WIDTHS):
        raise ConfigError(f"num_bits {sorted(widths)} of weights is not read; expected some of {WIDTHS}")
    blocks = tuple(block for each in weights if (block := _block(each)) is not None)
    return CompressedTensors(Scaled(blocks, dtype), tuple(sorted(widths)), dtype)


def _block(weights: Mapping[str, Any]) -> Block | None:
    """The numbers that share a scale, where they are neither all nor a row."""
    if weights.get("strategy") == "block":
        return read_block("block_structure", weights.get("block_structure"))
    if weights.get("strategy") == "group":
        return 1, whole("group_size", weights.get("group_size"), low=1)
    return None


@functools.partial(jax.jit, static_argnames=("bits", "dtype"))
def from_packed(
    numbers: UInt32[Array, "F words"],
    zeros: UInt32[Array, "words_out G"] | None,
    scales: Float[Array, "F G"],
    groups: Int[Array, "D"],
    bits: int,
    dtype: str,
) -> Float[Array, "F D"]:
    """The weight; see the module for the tensors."""
    middle = 2 ** (bits - 1)
    centred = unpacked(numbers, bits, axis=1)[:, : groups.size] - middle
    if zeros is None:
        centres = jnp.zeros(scales.shape, jnp.int32)
    else:
        centres = unpacked(zeros, bits, axis=0)[: scales.shape[0]] - middle
    return from_groups(centred, centres, scales, groups, dtype)
