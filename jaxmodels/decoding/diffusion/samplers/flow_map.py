"""Flow maps: models of two times, which give the mean velocity of the path between them."""

from dataclasses import dataclass, field

import numpy as np

from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.first_order import FirstOrder, Level
from jaxmodels.decoding.diffusion.samplers.flow_schedule import FlowLevels, FlowSchedule
from jaxmodels.decoding.diffusion.samplers.sampler import Plan


@dataclass(frozen=True, kw_only=True)
class FlowMapEuler(FirstOrder):
    """Jumps from time to time by mean velocities, as `diffusers.FlowMapEulerDiscreteScheduler`.

    The model is shown the time of the canvas and the time to jump to.

    Attributes:
        schedule: the noise levels.
        prediction: what the model's output is.
    """

    schedule: FlowSchedule = field(default_factory=lambda: FlowSchedule(levels=FlowLevels.EVEN))
    prediction: Prediction = Prediction.FLOW

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        sigmas = np.append(self.schedule.sigmas(steps, tokens), 0.0)
        times = self.schedule.times(sigmas)
        return Plan(
            times=np.stack([times[:-1], times[1:]], axis=1),
            input_scale=np.ones(steps),
            alpha=1 - sigmas[:-1],
            sigma=sigmas[:-1],
            rows=Level(alpha=1 - sigmas[1:], sigma=sigmas[1:], fresh=np.zeros(steps)),
            start=np.ones(()),
        )
