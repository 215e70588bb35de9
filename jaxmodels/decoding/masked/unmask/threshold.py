"""Unmasking by a threshold that is reached."""

from dataclasses import dataclass

from jaxtyping import Array, Bool

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.confidence import Confidence, Probability, check_share
from jaxmodels.decoding.masked.unmask.ranking import best
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class Threshold:
    """An `Unmask`: every place whose confidence is at least `threshold`, and always the most confident one.

    Source: Wu et al. 2025 (Fast-dLLM, https://arxiv.org/abs/2505.22618).

    Attributes:
        threshold: from 0, with which everything is filled in at once; above 1, places go one by one.
        by: the confidence, between 0 and 1.
    """

    threshold: float = 0.9
    by: Confidence = Probability()

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)
        check_share(self.by)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        confidence = self.by(seen)
        return seen.masked & (confidence >= self.threshold) | best(confidence, seen.masked)


register_dataclass(Threshold, ["threshold", "by"], [])
