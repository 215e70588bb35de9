"""The tokens of thinking behind which a policy may leave."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.processors.token_ids import checked_ids, padded
from jaxmodels.decoding.thinking.policy import Thought


class Moments(Protocol):
    """Says of each row whether thinking may be left behind its newest token. A pytree."""

    def __call__(self, thought: Thought) -> Bool[Array, "B"]: ...


@dataclass(frozen=True)
class AtTokens:
    """Behind these tokens: cues such as "wait", or the ends of sentences.

    Attributes:
        tokens: their ids. Data.

    Raises:
        ValueError: no token ids.
    """

    tokens: Sequence[int]

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", checked_ids("tokens", self.tokens))

    def named_tokens(self) -> Iterable[int]:
        return self.tokens

    def __call__(self, thought: Thought) -> Bool[Array, "B"]:
        return (thought.token[:, None] == jnp.asarray(self.tokens)).any(-1)


@dataclass(frozen=True)
class EveryTokens:
    """Behind each `count`-th token of the segment.

    Attributes:
        count: at least 1. Data.

    Raises:
        ValueError: a value outside its range.
    """

    count: int = 1

    def __post_init__(self) -> None:
        if not is_traced(self.count):
            whole("count", self.count, low=1)

    def __call__(self, thought: Thought) -> Bool[Array, "B"]:
        return thought.count % self.count == 0


register(AtTokens, "tokens", lambda tokens: padded([tokens])[0])
register(EveryTokens, "count")
