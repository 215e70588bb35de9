"""Tokens that are never said."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.processors.token_ids import checked_ids, padded, put


@dataclass(frozen=True)
class Suppress:
    """Rules out tokens. `suppress_tokens` of `transformers`.

    Attributes:
        tokens: their ids.

    Raises:
        ValueError: no ids, or none of a vocabulary.
    """

    tokens: Sequence[int]
    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens", checked_ids("tokens", self.tokens))

    def named_tokens(self) -> Iterable[int]:
        return self.tokens

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]:
        return put(logits, self.tokens, -jnp.inf)


register(Suppress, "tokens", lambda tokens: padded([tokens])[0])
