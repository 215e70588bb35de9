"""The least length of an answer."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.processors.token_ids import put


@dataclass(frozen=True)
class MinNewTokens:
    """Rules out the request's stop tokens until the answer has `minimum` tokens.

    `min_new_tokens` of `transformers`; stop strings end the answer before as they do there.

    Attributes:
        minimum: tokens, those of the prompt not counted.

    Raises:
        ValueError: a value below 0.
    """

    minimum: int
    positional: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not is_traced(self.minimum):
            whole("minimum", self.minimum)

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]:
        unended = put(logits, context.stop_tokens, -jnp.inf)
        return jnp.where(context.new < self.minimum, unended, logits)


register(MinNewTokens, "minimum")
