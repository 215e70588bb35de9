"""A draft length that grows where all of a draft was right, and shrinks where not."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.drafters.drafter import LIMIT
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class GrowShrink:
    """A `DraftLength`: `grow` tokens more behind a draft that was all right, else `shrink` fewer, 1 at least.

    Rounds in which a row was drafted nothing change nothing. Source: the heuristic schedule of
    `transformers`, whose numbers are the defaults and which has no bound.

    Attributes:
        start: tokens of the first draft. Data, as all of them.
        most: tokens of a draft at most; that of the drafter's `size`, where that is less.
        grow, shrink: tokens.

    Raises:
        ValueError: a number is below 1 (`shrink` below 0), or `start` exceeds `most`.
    """

    start: Array | int = 20
    most: Array | int = 32
    grow: Array | int = 2
    shrink: Array | int = 1

    def __post_init__(self) -> None:
        for name, low in (("start", 1), ("most", 1), ("grow", 1), ("shrink", 0)):
            if not is_traced(getattr(self, name)):
                object.__setattr__(self, name, whole(name, getattr(self, name), low=low))
        if not (is_traced(self.start) or is_traced(self.most)) and self.start > self.most:
            raise ValueError(f"start={self.start} must not exceed most={self.most}")

    @property
    def varies(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return LIMIT

    def begin(self, batch: int) -> Int[Array, "B"]:
        """The state is the length of each row's next draft."""
        return jnp.full((batch,), self.start, jnp.int32)

    def limit(self, state: Int[Array, "B"], size: int) -> Int[Array, "B"]:
        return jnp.minimum(state, size)

    def stop(
        self, state: Int[Array, "B"], index: Int[Array, ""] | int, probability: Float[Array, "B"]
    ) -> Bool[Array, "B"]:
        return jnp.zeros(state.shape, bool)

    def update(
        self, state: Int[Array, "B"], count: Int[Array, "B"], accepted: Int[Array, "B"]
    ) -> Int[Array, "B"]:
        changed = jnp.where(accepted >= count, state + self.grow, state - self.shrink)
        return jnp.where(count > 0, jnp.clip(changed, 1, self.most), state)


register_dataclass(GrowShrink, ["start", "most", "grow", "shrink"], [])
