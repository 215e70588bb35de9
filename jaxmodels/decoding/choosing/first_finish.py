"""The sample that ends first."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxmodels.decoding.choosing.choice import Candidates
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class FirstFinish:
    """First Finish Search: as soon as one sample of a prompt has ended, it is the answer; the others stop.

    Shorter reasoning is more often right, and nothing is spent on samples that go on. Known from the paper's
    abstract; inferred: of samples that end in the same step, the first in order wins.
    """

    def decided(self, candidates: Candidates) -> Bool[Array, "B"]:
        return (candidates.done & ~candidates.stuck).any(1) | candidates.done.all(1)

    def best(self, candidates: Candidates) -> Int[Array, "B"]:
        return jnp.argmax(candidates.done & ~candidates.stuck, axis=1).astype(jnp.int32)


register_dataclass(FirstFinish, [], [])
