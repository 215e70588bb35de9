"""The sample that the model itself finds most probable."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.choosing.choice import Candidates
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class MostProbable:
    """Of all samples, once they have ended, that of the greatest ``log_prob / length ** length_penalty``.

    Log-probabilities are the model's own, before processors, temperature and filters. Of equals the first.

    Attributes:
        length_penalty: 0 for the sum over tokens, 1 for the mean.

    Raises:
        ValueError: `length_penalty` is negative or not finite.
    """

    length_penalty: Float[Array, ""] | float = 1.0

    def __post_init__(self) -> None:
        check_number("length_penalty", self.length_penalty, low=0.0)

    def decided(self, candidates: Candidates) -> Bool[Array, "B"]:
        return candidates.done.all(1)

    def best(self, candidates: Candidates) -> Int[Array, "B"]:
        length = jnp.maximum(candidates.lengths, 1).astype(jnp.float32)
        score: jax.Array = candidates.log_prob / length**self.length_penalty
        return jnp.argmax(jnp.where(candidates.stuck, -jnp.inf, score), axis=1).astype(jnp.int32)


register_dataclass(MostProbable, ["length_penalty"], [])

MOST_PROBABLE = MostProbable()
