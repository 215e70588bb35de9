"""Guidance without a classifier, as it was published."""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, number, whole
from jaxmodels.decoding.diffusion.guidance.guidance import Outputs, away
from jaxmodels.decoding.diffusion.prediction import Predicted
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class CFG:
    """``u + scale * (c - u)`` of the outputs with and without a condition (Ho and Salimans 2022,
    https://arxiv.org/abs/2207.12598).

    Attributes:
        scale: 1 gives the conditional output, 0 the other.
        channels: how many of the first channels are guided, the others are those of the conditional output;
            None for all of the canvas. The official code of DiT and SiT has 3 of its 4.

    Raises:
        ValueError: a number outside its range.
    """

    scale: float
    channels: int | None = None

    def __post_init__(self) -> None:
        set_number(self, "scale")
        if self.channels is not None:
            object.__setattr__(self, "channels", whole("channels", self.channels, low=1))

    def rows(self, plan: Plan) -> np.ndarray:
        """The scale, for each call."""
        return np.full(plan.calls, self.scale)

    def __call__(self, outputs: Outputs, row: Float[Array, ""]) -> Predicted:
        """See `Guidance`."""
        return outputs.read(away(*outputs.pair(self.channels), row))


def set_number(guidance: object, name: str, *, low: float = -math.inf, high: float = math.inf) -> None:
    """Makes a strength of a new guidance a float, so that 2 and 2.5 run the same program.

    Raises:
        ValueError: it is no finite number from `low` to `high`.
    """
    value = getattr(guidance, name)
    if not is_traced(value):
        object.__setattr__(guidance, name, number(name, value, low=low, high=high))


register_dataclass(CFG, ["scale"], ["channels"])
