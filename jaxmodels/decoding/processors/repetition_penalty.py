"""Tokens that the text holds become less likely, however often they occur."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.decoding.processors.chain import Context
from jaxmodels.decoding.processors.registration import register
from jaxmodels.decoding.samplers import check_number


@dataclass(frozen=True)
class RepetitionPenalty:
    """Divides positive and multiplies negative logits of tokens in prompt or answer by `penalty`.

    Source: Keskar et al. 2019 (CTRL), section 4.1, with the sign rule that `transformers` uses.

    Attributes:
        penalty: above 1 makes them less likely, below 1 more likely; greater than 0.

    Raises:
        ValueError: a value outside its range or not finite.
    """

    penalty: float
    positional: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_number("penalty", self.penalty, low=0.0, low_included=False)

    def __call__(self, logits: Float[Array, "V"], context: Context) -> Float[Array, "V"]:
        penalised = jnp.where(logits > 0, logits / self.penalty, logits * self.penalty)
        return jnp.where(context.seen(logits.shape[-1]), penalised, logits)


register(RepetitionPenalty, "penalty")
