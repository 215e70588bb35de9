"""FORA: the outputs of attention and feed-forward are kept for a few steps."""

from dataclasses import dataclass

import numpy as np

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.forecasts import (
    Factors,
    Forecast,
    StepsByForecast,
    forecasts,
    no_factors,
)
from jaxmodels.decoding.diffusion.caches.outputs import ALL_KINDS, parts_named
from jaxmodels.decoding.diffusion.caches.schedules import check_within
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, eq=False)
class FORA(StepsByForecast):
    """A `StepCache` that computes one step of every `interval`, and repeats the outputs of blocks' parts in
    those between them (https://arxiv.org/abs/2407.01425). Gates are those of the step itself.

    As in the published code steps are counted from the end: the last one is computed, and the first, but the
    second computed one may follow it sooner than after `interval` steps.

    Attributes:
        interval: of so many steps one is computed.
        parts: the kinds of parts that are repeated; others are computed in every step.

    Raises:
        ValueError: an option outside its range.
    """

    interval: int = 3
    parts: tuple[str, ...] = ALL_KINDS

    def __post_init__(self) -> None:
        if not is_traced(self.interval):
            object.__setattr__(self, "interval", whole("interval", self.interval, low=1))

    def rows(self, denoiser: Denoiser, plan: Plan) -> Forecast:
        """The mask.

        Raises:
            ValueError: `interval` is longer than the run.
        """
        check_within("interval", self.interval, plan.calls)
        return forecasts(fora_mask(plan.calls, self.interval), order=0)

    def begin(self, step: Step) -> Factors:
        """No outputs.

        Raises:
            ValueError: the model has none of these parts.
        """
        return no_factors(step, parts_named(step.denoiser, self.parts), order=0)


def fora_mask(steps: int, interval: int) -> np.ndarray:
    """bool[steps], the steps that are computed."""
    left = steps - 1 - np.arange(steps)
    return (left == steps - 1) | (left % interval == 0)


register_dataclass(FORA, ["interval"], ["parts"])
