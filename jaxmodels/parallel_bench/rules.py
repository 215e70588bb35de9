"""The rules of unmasking by name, each with the knob that trades accuracy for speed and a range of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jaxmodels.decoding.masked.seen import Unmask
from jaxmodels.decoding.masked.unmask import (
    CreditDecoding,
    Dream,
    DreamOrigin,
    DynamicThreshold,
    EntropyBounded,
    EntropyThreshold,
    Factor,
    Hierarchy,
    LocalLeap,
    Margin,
    NegativeEntropy,
    Probability,
    Quota,
    Random,
    ReleasedFactor,
    StrictThreshold,
    Threshold,
)

PLACES = (1.0, 2.0, 3.0, 4.0, 5.0, 16.0)
PROBABILITIES = (0.95, 0.9, 0.7, 0.5, 0.3, 0.1)


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A rule of unmasking with its knob left open.

    Attributes:
        knob: what is turned. Of "places per call" the number of planned steps follows.
        values: from careful to fast.
        build: the rule for a value of the knob.
    """

    knob: str
    values: tuple[float, ...]
    build: Callable[[float], Unmask]

    def steps(self, value: float, canvas: int) -> int | None:
        """Steps to plan for a canvas of so many places; None where the rule does not go by a plan."""
        return max(1, -(-canvas // round(value))) if self.knob == "places per call" else None


def _planned(unmask: Unmask) -> Rule:
    return Rule(knob="places per call", values=PLACES, build=lambda _: unmask)


RULES = {
    "confidence": _planned(Quota(by=Probability())),
    "margin": _planned(Quota(by=Margin())),
    "entropy": _planned(Quota(by=NegativeEntropy())),
    "random": _planned(Quota(by=Random())),
    "dream": _planned(Dream()),
    "dream_origin": _planned(DreamOrigin()),
    "dynamic_threshold": Rule(knob="threshold", values=PROBABILITIES, build=DynamicThreshold),
    "threshold": Rule(knob="threshold", values=PROBABILITIES, build=Threshold),
    "strict_threshold": Rule(knob="threshold", values=PROBABILITIES, build=StrictThreshold),
    "entropy_threshold": Rule(knob="nats", values=(0.1, 0.5, 1.0, 1.5, 2.0, 4.0), build=EntropyThreshold),
    "entropy_bounded": Rule(knob="nats", values=(0.01, 0.1, 0.5, 2.0, 5.0, 15.0), build=EntropyBounded),
    "factor": Rule(knob="factor", values=(0.1, 0.5, 1.0, 2.0, 4.0, 8.0), build=Factor),
    "released_factor": Rule(knob="factor", values=(0.1, 0.5, 1.0, 2.0, 4.0, 8.0), build=ReleasedFactor),
    "hierarchy": Rule(
        knob="low threshold", values=(0.9, 0.7, 0.5, 0.4, 0.2, 0.1), build=lambda low: Hierarchy(low=low)
    ),
    "local_leap": Rule(
        knob="relaxed threshold",
        values=(0.9, 0.75, 0.5, 0.3, 0.1),
        build=lambda relaxed: LocalLeap(relaxed=relaxed),
    ),
    "credit_decoding": Rule(
        knob="threshold", values=PROBABILITIES, build=lambda value: CreditDecoding(then=Threshold(value))
    ),
}


def check_rules(names: Sequence[str]) -> None:
    """Raises ValueError if one of the names is no rule's."""
    for name in names:
        if name not in RULES:
            raise ValueError(f"there is no rule {name!r}; there are {', '.join(RULES)}")
