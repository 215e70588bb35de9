"""Heun's method for flow matching."""

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Array, Float

from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.flow_schedule import FlowSchedule
from jaxmodels.decoding.diffusion.samplers.heun import HeunRow, heun_rows, heun_step
from jaxmodels.decoding.diffusion.samplers.sampler import Plan


@dataclass(frozen=True, kw_only=True)
class FlowHeun:
    """Heun's method along straight paths, as `diffusers.FlowMatchHeunDiscreteScheduler`, without churn.

    A run of N steps calls the model 2 N - 1 times.

    Attributes:
        schedule: the noise levels.
        prediction: what the model's output is.
    """

    schedule: FlowSchedule = field(default_factory=FlowSchedule)
    prediction: Prediction = Prediction.FLOW

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        sigmas = self.schedule.sigmas(steps, tokens)
        ends = np.append(sigmas, 0.0)
        at, rows = heun_rows(1 - ends, ends)
        return Plan(
            times=self.schedule.times(sigmas[at]),
            input_scale=np.ones(len(at)),
            alpha=1 - sigmas[at],
            sigma=sigmas[at],
            rows=rows,
            start=np.ones(()),
        )

    def begin(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return x

    def step(
        self,
        predicted: Predicted,
        row: HeunRow,
        memory: Float[Array, "B H W C"],
        noise: Float[Array, "B H W C"] | None,
    ) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W C"]]:
        return heun_step(predicted, row, memory, predicted.flow())
