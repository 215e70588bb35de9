"""A draft length that ends behind the first token that the drafter was not sure of."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, number
from jaxmodels.decoding.drafters.drafter import STOP
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class Confident:
    """A `DraftLength`: drafting ends behind the first token of a probability below `threshold`.

    That token is verified as those before it are, so that sampling stays exact: whether a token is drafted
    depends on the ones in front of it alone. Source: dynamic speculation lookahead
    (https://arxiv.org/abs/2405.04304), as `transformers` has it.

    Attributes:
        threshold: 0 for drafts that never end, 1 for single tokens. Data.

    Raises:
        ValueError: it is outside 0 to 1.
    """

    threshold: Array | float = 0.4

    def __post_init__(self) -> None:
        if not is_traced(self.threshold):
            checked = number("threshold", self.threshold, low=0.0, high=1.0)
            object.__setattr__(self, "threshold", checked)

    @property
    def varies(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return STOP

    def begin(self, batch: int) -> Int[Array, "B 0"]:
        """There is no state but the number of rows."""
        return jnp.zeros((batch, 0), jnp.int32)

    def limit(self, state: Int[Array, "B 0"], size: int) -> Int[Array, "B"]:
        return jnp.full(state.shape[:1], size, jnp.int32)

    def stop(
        self, state: Int[Array, "B 0"], index: Int[Array, ""] | int, probability: Float[Array, "B"]
    ) -> Bool[Array, "B"]:
        return probability < self.threshold

    def update(
        self, state: Int[Array, "B 0"], count: Int[Array, "B"], accepted: Int[Array, "B"]
    ) -> Int[Array, "B 0"]:
        return state


register_dataclass(Confident, ["threshold"], [])
