"""TaylorSeer: the outputs of blocks' parts are forecast from those of several steps."""

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
class TaylorSeer(StepsByForecast):
    """A `StepCache` that computes one step of every few, and forecasts the outputs of blocks' parts in those
    between them (https://arxiv.org/abs/2503.06923), with the schedule of `TaylorSeerCacheConfig` in
    `diffusers`.

    Attributes:
        interval: of so many steps one is computed.
        warmup: so many steps are computed first.
        cooldown: so many are computed at the end.
        order: of the series: 0 repeats the last outputs, 1 goes on along a line.
        parts: the kinds of parts that are forecast; others are computed in every step.

    Raises:
        ValueError: an option outside its range.
    """

    interval: int = 5
    warmup: int = 3
    cooldown: int = 0
    order: int = 1
    parts: tuple[str, ...] = ALL_KINDS

    def __post_init__(self) -> None:
        for name, low in {"interval": 1, "warmup": 1, "cooldown": 0, "order": 0}.items():
            value = getattr(self, name)
            if not is_traced(value):
                object.__setattr__(self, name, whole(name, value, low=low))

    def rows(self, denoiser: Denoiser, plan: Plan) -> Forecast:
        """The mask and the weights of the series.

        Raises:
            ValueError: the run has fewer steps than `warmup`.
        """
        check_within("warmup", self.warmup, plan.calls)
        return forecasts(taylorseer_mask(plan.calls, self.interval, self.warmup, self.cooldown), self.order)

    def begin(self, step: Step) -> Factors:
        """No factors.

        Raises:
            ValueError: the model has none of these parts.
        """
        return no_factors(step, parts_named(step.denoiser, self.parts), self.order)


def taylorseer_mask(steps: int, interval: int = 5, warmup: int = 3, cooldown: int = 0) -> np.ndarray:
    """bool[steps], the steps that are computed."""
    step = np.arange(steps)
    return (step < warmup) | ((step - warmup - 1) % interval == 0) | (step >= steps - cooldown)


register_dataclass(TaylorSeer, ["interval", "warmup", "cooldown"], ["order", "parts"])
