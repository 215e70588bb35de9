"""Floating-point numbers of eight bits."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float

from jaxmodels.layers.quantized.format import rounded_scales


@dataclass(frozen=True)
class Float8:
    """One sign, four exponent and three mantissa bits (E4M3 of https://arxiv.org/abs/2209.05433), with one
    scale per output; a `NumberFormat`."""

    name: ClassVar[str] = "fp8"
    groups: ClassVar[tuple[int, ...]] = ()
    numbers: ClassVar[Any] = jnp.float8_e4m3fn
    factors: ClassVar[Any] = jnp.bfloat16

    def scales(self, largest: Float[Array, "*blocks"]) -> BFloat16[Array, "*blocks"]:
        """See `NumberFormat`."""
        return rounded_scales(largest / float(jnp.finfo(self.numbers).max))

    def rounded(self, w: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """See `NumberFormat`."""
        most = float(jnp.finfo(self.numbers).max)
        return jnp.clip(w, -most, most).astype(self.numbers)
