"""Unmasking by a schedule: each step fills in its share of a block's places, those of highest confidence."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.confidence import Confidence, Probability, check_confidence
from jaxmodels.decoding.masked.unmask.ranking import top
from jaxmodels.pytrees import register_dataclass


def even_share(
    total: Int[Array, "B"] | int, steps: Int[Array, "B"], step: Int[Array, "B"]
) -> Int[Array, "B"]:
    """How many of `total` places the step numbered `step` fills in where `steps` steps share them evenly.

    What is left over is spread over the first steps, one place each: 10 places in 4 steps are 3, 3, 2, 2.
    At least 1, so that a block is filled in even if a step behind the planned ones is taken.
    """
    return jnp.maximum(total // steps + (step < total % steps), 1).astype(jnp.int32)


@dataclass(frozen=True)
class Quota:
    """An `Unmask`: each planned step fills in its even share of the block's unknown places, see `even_share`.

    Source: Nie et al. 2025 (LLaDA, https://arxiv.org/abs/2502.09992) and its ``generate.py``, where `by` is
    `Probability` (``low_confidence``) or `Random`.

    Attributes:
        by: which places come first.
    """

    by: Confidence = Probability()

    def __post_init__(self) -> None:
        check_confidence(self.by)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        return top(self.by(seen), seen.masked, even_share(seen.initial, seen.steps, seen.step))


register_dataclass(Quota, ["by"], [])
