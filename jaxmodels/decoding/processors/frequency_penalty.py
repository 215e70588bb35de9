"""Tokens become less likely with every time that they occur in the answer."""

import math
from dataclasses import dataclass
from typing import ClassVar

from jaxtyping import Array, Float

from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.samplers import check_number


@dataclass(frozen=True)
class FrequencyPenalty:
    """Subtracts `penalty` from a token's logit once for each time it occurs in the answer.

    The prompt does not count. Source: the OpenAI API's `frequency_penalty`, as vLLM computes it.

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
        return logits - self.penalty * context.counts(logits.shape[-1])


register(FrequencyPenalty, "penalty")
