"""Unmasking by a threshold above a scheduled number of places."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.confidence import Confidence, Probability, check_share
from jaxmodels.decoding.masked.unmask.quota import even_share
from jaxmodels.decoding.masked.unmask.ranking import top
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class DynamicThreshold:
    """An `Unmask`: the places whose confidence exceeds `threshold` if they are at least the step's share of
    the block, else as many of the most confident ones as that share has.

    The share is that of the whole block, known places included, as if all had been unknown: in a block that
    the prompt's end shares, steps fill in what they do in the others.

    Sources: LLaDA2.0 (Bie et al. 2025, https://arxiv.org/abs/2512.15745), threshold 0.95, and diffusers'
    ``BlockRefinementScheduler``; SDAR (Cheng et al. 2025, https://arxiv.org/abs/2510.06303),
    ``low_confidence_dynamic``, threshold 0.85. Both of them measure what the sampler draws from, which with a
    temperature is ``by=AsSampled()``.

    Attributes:
        threshold: exceeded by what is filled in beyond the share.
        by: the confidence, between 0 and 1.
    """

    threshold: float = 0.95
    by: Confidence = Probability()

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)
        check_share(self.by)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        confidence = self.by(seen)
        share = even_share(seen.masked.shape[1], seen.steps, jnp.minimum(seen.step, seen.steps - 1))
        above = seen.masked & (confidence > self.threshold)
        is_enough = above.sum(1) >= share
        return jnp.where(is_enough[:, None], above, top(confidence, seen.masked, share))


register_dataclass(DynamicThreshold, ["threshold", "by"], [])
