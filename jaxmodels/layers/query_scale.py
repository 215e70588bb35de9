"""Factors of queries that depend on where they stand, so that attention over long contexts stays as sharp."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int


@dataclass(frozen=True, kw_only=True)
class LogScale:
    """``1 + strength * log(1 + floor((p + offset) / interval))`` for a query at position p.

    Source: https://arxiv.org/abs/2501.19399, in steps, as transformers' code for Llama 4 and Ministral 3.

    Raises:
        ValueError: `interval` is below 1.
    """

    strength: float
    interval: int
    offset: int = 0

    def __post_init__(self) -> None:
        if self.interval < 1:
            raise ValueError(f"LogScale: interval must be at least 1, got {self.interval}")

    def __call__(self, positions: Int[Array, "B S"]) -> Float[Array, "B S"]:
        steps = jnp.floor((positions + self.offset).astype(jnp.float32) / self.interval)
        return jnp.log1p(steps) * self.strength + 1.0
