"""Whole numbers of eight or four bits, symmetric about zero."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, BFloat16, Float, Int

from jaxmodels.layers.quantized.format import rounded_scales

_DTYPES: dict[int, Any] = {8: jnp.int8, 4: jnp.int4}


@dataclass(frozen=True, kw_only=True)
class Integers:
    """Numbers from ``-(2 ** (bits - 1) - 1)`` to its opposite; a `NumberFormat`.

    Attributes:
        bits: 8 or 4.
        groups: how many inputs share a scale: sizes, of which the first that divides a weight's inputs
            counts; none for one scale per output.
    """

    bits: int
    groups: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.bits not in _DTYPES:
            raise ValueError(f"Integers: bits must be 8 or 4, got {self.bits!r}")

    @property
    def name(self) -> str:
        return f"int{self.bits}"

    @property
    def numbers(self) -> Any:
        return _DTYPES[self.bits]

    @property
    def factors(self) -> Any:
        return jnp.bfloat16

    def scales(self, largest: Float[Array, "*blocks"]) -> BFloat16[Array, "*blocks"]:
        """See `NumberFormat`."""
        return rounded_scales(largest / self._most)

    def rounded(self, w: Float[Array, "*shape"]) -> Int[Array, "*shape"]:
        """See `NumberFormat`."""
        return jnp.clip(jnp.round(w), -self._most, self._most).astype(self.numbers)

    @property
    def _most(self) -> int:
        return int(2 ** (self.bits - 1) - 1)
