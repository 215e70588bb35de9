"""The token that an answer of full length ends with."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.processors.token_ids import checked_ids, padded, put


@dataclass(frozen=True)
class ForcedEos:
    """Leaves these tokens alone, and equally likely, as the last of an answer of the greatest length.

    `forced_eos_token_id` of `transformers`.

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
        forced = put(jnp.full_like(logits, -jnp.inf), self.tokens, 0.0)
        return jnp.where(context.new == context.max_new - 1, forced, logits)


register(ForcedEos, "tokens", lambda tokens: padded([tokens])[0])
