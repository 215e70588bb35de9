"""Euler's method for flow matching."""

from dataclasses import dataclass, field

import numpy as np

from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.first_order import FirstOrder, Level
from jaxmodels.decoding.diffusion.samplers.flow_schedule import FlowSchedule
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.decoding.diffusion.samplers.sigmas import SigmaGrid


@dataclass(frozen=True, kw_only=True)
class FlowEuler(FirstOrder):
    """Euler's method along straight paths, as `diffusers.FlowMatchEulerDiscreteScheduler`.

    Attributes:
        schedule: the noise levels.
        prediction: what the model's output is.
        grid: where levels lie between the first and the last of the schedule, None for at the schedule's own.
        renoises: whether each step goes to the clean data and back with fresh noise, in place of along the
            path.
    """

    schedule: FlowSchedule = field(default_factory=FlowSchedule)
    prediction: Prediction = Prediction.FLOW
    grid: SigmaGrid | None = None
    renoises: bool = False

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        sigmas = self.schedule.sigmas(steps, tokens)
        if self.grid is not None:
            sigmas = self.grid(steps, sigmas[-1], sigmas[0])
        ends, none = np.append(sigmas[1:], 0.0), np.zeros(steps)
        return Plan(
            times=self.schedule.times(sigmas),
            input_scale=np.ones(steps),
            alpha=1 - sigmas,
            sigma=sigmas,
            rows=Level(
                alpha=1 - ends,
                sigma=none if self.renoises else ends,
                fresh=ends if self.renoises else none,
            ),
            start=np.ones(()),
            draws=self.renoises,
        )
