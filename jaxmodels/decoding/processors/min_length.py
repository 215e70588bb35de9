"""The least length of a text."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.processors.token_ids import put


@dataclass(frozen=True)
class MinLength:
    """Rules out the request's stop tokens until prompt and answer together have `minimum` tokens.

    `min_length` of `transformers`; stop strings end the answer before as they do there.

    Attributes:
        minimum: tokens, those of the prompt counted.

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
        return jnp.where(context.length < self.minimum, unended, logits)


register(MinLength, "minimum")
