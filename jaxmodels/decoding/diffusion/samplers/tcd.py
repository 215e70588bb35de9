"""Trajectory consistency distillation."""

from dataclasses import dataclass, field

import numpy as np

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas, BetaSchedule
from jaxmodels.decoding.diffusion.samplers.first_order import FirstOrder, Level
from jaxmodels.decoding.diffusion.samplers.lcm import distilled_times
from jaxmodels.decoding.diffusion.samplers.sampler import Plan


@dataclass(frozen=True, kw_only=True)
class TCD(FirstOrder):
    """Strategic stochastic sampling (Zheng et al. 2024), as `diffusers.TCDScheduler`: beyond the next time,
    and back to it with fresh noise.

    Attributes:
        noise: the noise schedule.
        prediction: what the model's output is.
        distilled: steps of the solver that the model was distilled from; runs visit a part of these.
        eta: how far beyond, as a share of the next time: 0 is deterministic.

    Raises:
        ValueError: a number outside its range.
    """

    noise: Betas = field(
        default_factory=lambda: Betas(schedule=BetaSchedule.SCALED_LINEAR, first=0.00085, last=0.012)
    )
    prediction: Prediction = Prediction.EPSILON
    distilled: int = 50
    eta: float = 0.3

    def __post_init__(self) -> None:
        whole("distilled", self.distilled, low=1, high=self.noise.count)
        number("eta", self.eta, low=0.0, high=1.0)

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        products = self.noise.products
        times = distilled_times(steps, self.distilled, self.noise.count)
        then = np.append(times[1:], 0)
        # In float32, as there: rounding decides on which side of a whole number a product falls.
        beyond = np.floor(np.float32(1 - self.eta) * then.astype(np.float32)).astype(int)
        back = products[then] / products[beyond]
        back[-1] = 1.0
        return Plan(
            times=times.astype(np.float64),
            input_scale=np.ones(steps),
            alpha=np.sqrt(products[times]),
            sigma=np.sqrt(1 - products[times]),
            rows=Level(
                alpha=np.sqrt(back * products[beyond]),
                sigma=np.sqrt(back * (1 - products[beyond])),
                fresh=np.sqrt(1 - back),
            ),
            start=np.ones(()),
            draws=self.eta > 0,
        )
