"""Thinking of a fixed length."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.decoding.thinking.moments import EveryTokens, Moments
from jaxmodels.decoding.thinking.policy import Thought
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class TokenBudget:
    """Thinking is left at the first moment at which it has so many tokens, whatever they say.

    Source: budget forcing, of s1 (https://arxiv.org/abs/2501.19393), its upper bound alone. The score is the
    number of tokens over `tokens`.

    Attributes:
        tokens: of the segment, at least 1. Data.
        moments: the tokens behind which thinking may be left.

    Raises:
        ValueError: a value outside its range.
    """

    tokens: Array | int
    moments: Moments = EveryTokens()

    def __post_init__(self) -> None:
        check_policy("moments", self.moments, "__call__", "AtTokens((5, 9))")
        if not is_traced(self.tokens):
            whole("tokens", self.tokens, low=1)

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    @property
    def threshold(self) -> float:
        """Below 1, which the score is where the budget is just spent."""
        return 1 - 1e-6

    def begin(self, batch: int) -> tuple[()]:
        return ()

    def look(self, thought: Thought, notes: tuple[()]) -> tuple[Float[Array, "B"], tuple[()]]:
        spent = thought.count / jnp.asarray(self.tokens, jnp.float32)
        return jnp.where(self.moments(thought), spent, -jnp.inf), notes


register_dataclass(TokenBudget, ["tokens", "moments"], [])
