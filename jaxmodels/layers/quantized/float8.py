"""Floating-point numbers of eight bits."""

from dataclasses import dataclass
from typing import Any, ClassVar

import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxmodels.layers.quantized.format import in_normal_range


@dataclass(frozen=True)
class Float8:
    """One sign, four exponent and three mantissa bits (E4M3 of https://arxiv.org/abs/2209.05433), with one
    scale per output; a `NumberFormat`."""

    name: ClassVar[str] = "fp8"
    groups: ClassVar[tuple[int, ...]] = ()
    numbers: ClassVar[Any] = jnp.float8_e4m3fn

    def scale_dtype(self, dtype: DTypeLike) -> Any:
        """See `NumberFormat`."""
        return jnp.dtype(dtype)

    def scales(self, largest: Float[Array, "*blocks"], dtype: DTypeLike) -> Float[Array, "*blocks"]:
        """See `NumberFormat`."""
        return in_normal_range(largest / float(jnp.finfo(self.numbers).max), dtype)

    def rounded(self, w: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """See `NumberFormat`."""
        most = float(jnp.finfo(self.numbers).max)
        return jnp.clip(w, -most, most).astype(self.numbers)
