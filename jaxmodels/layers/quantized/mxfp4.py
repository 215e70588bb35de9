"""Floating-point numbers of four bits in blocks that share an exponent."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

_BIAS = 127
# The exponent of the largest number of a block, 6 or 4 times a power of two.
_TOP_EXPONENT = 2


@dataclass(frozen=True)
class Mxfp4:
    """MXFP4 of OCP Microscaling Formats 1.0: one sign, two exponent and one mantissa bit, and for each 32
    inputs an exponent of eight bits; a `NumberFormat`.

    Weights that are in this format already, as the experts of gpt-oss, are held without loss, whichever
    exponents they were stored with: halving all scales doubles the numbers, and those of a block whose
    largest is at most 3 have their doubles in the format.
    """

    name: ClassVar[str] = "mxfp4"
    groups: ClassVar[tuple[int, ...]] = (32,)
    numbers: ClassVar[Any] = jnp.float4_e2m1fn
    factors: ClassVar[Any] = jnp.uint8

    def scales(self, largest: Float[Array, "*blocks"]) -> UInt8[Array, "*blocks"]:
        """See `NumberFormat`."""
        _, exponent = jnp.frexp(largest)
        # Of frexp's mantissas, which are below 1, the exponents are one larger; that of 0 is 0.
        shared = jnp.where(largest > 0, exponent - 1 - _TOP_EXPONENT, 0)
        return jnp.clip(shared + _BIAS, 1, 2 * _BIAS).astype(jnp.uint8)

    def rounded(self, w: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """See `NumberFormat`."""
        most = float(jnp.finfo(self.numbers).max)
        return jnp.clip(w, -most, most).astype(self.numbers)
