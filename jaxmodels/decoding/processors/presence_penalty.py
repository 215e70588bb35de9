"""Tokens that the answer holds become less likely, however often they occur."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.samplers import check_number


@dataclass(frozen=True)
class PresencePenalty:
    """Subtracts `penalty` from the logits of tokens that occur in the answer; the prompt does not count.

    Source: the OpenAI API's `presence_penalty`, as vLLM computes it.

    Attributes:
        penalty: above 0 makes them less likely, below 0 more likely.

    Raises:
        ValueError: a value that is not finite.
    """

    penalty: float
    positional: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("penalty", self.penalty, low=-math.inf)

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]:
        return jnp.where(context.counts(logits.shape[-1]) > 0, logits - self.penalty, logits)


register(PresencePenalty, "penalty")
