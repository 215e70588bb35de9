"""MXFP4 (OCP Microscaling Formats 1.0; the experts of gpt-oss).

Blocks of 32 numbers, each in four bits, one of sign, two of exponent, one of mantissa, and an eight-bit
exponent that they share. A weight ``[E, D, F]`` is the bytes ``<name>_blocks`` [E, F, D/32, 16], the lower
half of a byte first, and ``<name>_scales`` [E, F, D/32]. Every such number is a bfloat16, so nothing is lost.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, BFloat16, UInt8

from jaxmodels.checkpoints.quantized.format import Arrays, StoredWeight, misfit, parts_of
from jaxmodels.checkpoints.safetensors_io import TensorReader

_BLOCKS, _SCALES = "_blocks", "_scales"
BLOCK_SIZE = 32
_SCALE_BIAS = 127


@dataclass(frozen=True)
class Mxfp4:
    """A `Format`; every weight is decoded to bfloat16."""

    def weights(self, tensors: TensorReader) -> Iterator[StoredWeight]:
        """See `Format`."""
        infos = tensors.infos
        names = [
            name.removesuffix(_BLOCKS).removesuffix(_SCALES)
            for name, info in infos.items()
            if info.dtype == "uint8" and name.endswith((_BLOCKS, _SCALES))
        ]
        for name in dict.fromkeys(names):
            parts = parts_of(infos, {"blocks": name + _BLOCKS, "scales": name + _SCALES}, {})
            blocks, scales = infos[parts["blocks"]].shape, infos[parts["scales"]].shape
            if len(scales) != 3 or blocks != (*scales, BLOCK_SIZE // 2):
                raise misfit(infos, parts, f"[E, F, C, {BLOCK_SIZE // 2}] and [E, F, C]")
            experts, rows, count = scales
            yield StoredWeight(
                name=name,
                shape=(experts, count * BLOCK_SIZE, rows),
                dtype="bfloat16",
                tensors=parts,
                decode=_decode,
            )

    def is_dropped(self, name: str) -> bool:
        """See `Format`."""
        return False


def read_mxfp4(settings: Mapping[str, Any], dtype: str) -> Mxfp4:
    """The format for a ``quantization_config``; it has no settings that matter to reading."""
    return Mxfp4()


@jax.jit
def from_mxfp4(blocks: UInt8[Array, "F C 16"], scales: UInt8[Array, "F C"]) -> BFloat16[Array, "F D"]:
    """The numbers of blocks, ``D = 32 * C`` in a row."""
    codes = jnp.stack([blocks & 0xF, blocks >> 4], axis=-1).reshape(*scales.shape, BLOCK_SIZE)
    exponent, mantissa = (codes >> 1) & 0b11, codes & 1
    # In halves: 0 and 1 for an exponent of 0, else (2 + mantissa) * 2 ** (exponent - 1).
    halves = jnp.where(exponent == 0, mantissa, (2 + mantissa) << jnp.maximum(exponent, 1) - 1)
    numbers = jnp.where(codes >> 3 == 1, -1.0, 1.0) * halves.astype(jnp.float32)
    scaled = jnp.ldexp(numbers, scales[..., None].astype(jnp.int32) - (_SCALE_BIAS + 1))
    return scaled.astype(jnp.bfloat16).reshape(scales.shape[0], -1)


def _decode(parts: Arrays) -> np.ndarray:
    blocks, scales = parts["blocks"], parts["scales"]
    experts, rows, count = scales.shape
    whole = np.empty((experts, count * BLOCK_SIZE, rows), jnp.bfloat16)
    for expert in range(experts):  # one at a time bounds the memory
        whole[expert] = from_mxfp4(blocks[expert], scales[expert]).T
    return whole
