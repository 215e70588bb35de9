"""The token that follows a prompt of one token."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register


@dataclass(frozen=True)
class ForcedBos:
    """Leaves one token as the second of a text, which a prompt of one token is followed by.

    `forced_bos_token_id` of `transformers`; translation models name the language with it.

    Attributes:
        token: its id.

    Raises:
        ValueError: no token id.
    """

    token: int
    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_traced(self.token):
            whole("token", self.token)

    def named_tokens(self) -> Iterable[int]:
        return (self.token,)

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]:
        is_forced = jnp.arange(logits.shape[-1]) == self.token
        return jnp.where(context.length == 1, jnp.where(is_forced, 0.0, -jnp.inf), logits)


register(ForcedBos, "token")
