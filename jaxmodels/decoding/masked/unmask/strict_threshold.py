"""Unmasking by a threshold that is exceeded."""

from dataclasses import dataclass

from jaxtyping import Array, Bool

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.confidence import Confidence, Probability, check_share
from jaxmodels.decoding.masked.unmask.ranking import best
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class StrictThreshold:
    """An `Unmask`: every place whose confidence exceeds `threshold`, and always the most confident one.

    That is the rule of Fast-dLLM v2 (Wu et al. 2025, https://arxiv.org/abs/2509.26328), of LLaDA2.x where a
    step has to fill in one place only, and of sglang's ``LowConfidence``.

    Attributes:
        threshold: 1, the default of Fast-dLLM v2's ``generate``, fills in one place per step; its paper has
            0.9, its scripts 0.95.
        by: the confidence, between 0 and 1.
    """

    threshold: float = 0.95
    by: Confidence = Probability()

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)
        check_share(self.by)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        confidence = self.by(seen)
        return seen.masked & (confidence > self.threshold) | best(confidence, seen.masked)


register_dataclass(StrictThreshold, ["threshold", "by"], [])
