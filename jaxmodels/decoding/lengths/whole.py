"""A fixed draft length: as many tokens as the drafter has room for."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.drafters.drafter import NOTHING
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class Whole:
    """A `DraftLength`: always the drafter's whole `size`."""

    @property
    def varies(self) -> bool:
        return False

    @property
    def needs(self) -> frozenset[str]:
        return NOTHING

    def begin(self, batch: int) -> Int[Array, "B 0"]:
        """There is no state but the number of rows."""
        return jnp.zeros((batch, 0), jnp.int32)

    def limit(self, state: Int[Array, "B 0"], size: int) -> Int[Array, "B"]:
        return jnp.full(state.shape[:1], size, jnp.int32)

    def stop(
        self, state: Int[Array, "B 0"], index: Int[Array, ""] | int, probability: Float[Array, "B"]
    ) -> Bool[Array, "B"]:
        return jnp.zeros(state.shape[:1], bool)

    def update(
        self, state: Int[Array, "B 0"], count: Int[Array, "B"], accepted: Int[Array, "B"]
    ) -> Int[Array, "B 0"]:
        return state


register_dataclass(Whole, [], [])
