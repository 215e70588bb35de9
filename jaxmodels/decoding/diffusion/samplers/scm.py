"""Consistency models of TrigFlow."""

from dataclasses import dataclass

import numpy as np

from jaxmodels.checks import number
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.first_order import FirstOrder, Level
from jaxmodels.decoding.diffusion.samplers.sampler import Plan, whole_steps


@dataclass(frozen=True, kw_only=True)
class SCM(FirstOrder):
    """Consistency sampling along ``x = cos(t) * clean + sin(t) * noise`` (Lu and Song 2024), as
    `diffusers.SCMScheduler`: to the data, and back with fresh noise.

    Canvases are of data with a deviation of 1, which are those of `diffusers` over its `sigma_data`.

    Attributes:
        prediction: what the model's output is; TrigFlow's is the velocity.
        count: training steps, which bound a run.
        first: the time that runs begin at, up to pi / 2.
        middle: the second time of a run of two steps, None for halfway.

    Raises:
        ValueError: a number outside its range.
    """

    prediction: Prediction = Prediction.V
    count: int = 1000
    first: float = 1.5708
    middle: float | None = 1.3

    def __post_init__(self) -> None:
        number("first", self.first, low=0.0, low_included=False, high=1.5708)
        if self.middle is not None:
            number("middle", self.middle, low=0.0, low_included=False, high=self.first)

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        steps = whole_steps(steps, self.count)
        times = np.linspace(self.first, 0.0, steps + 1)
        if steps == 2 and self.middle is not None:
            times[1] = self.middle
        ends = times[1:]
        return Plan(
            times=times[:-1],
            input_scale=np.ones(steps),
            alpha=np.cos(times[:-1]),
            sigma=np.sin(times[:-1]),
            rows=Level(alpha=np.cos(ends), sigma=np.zeros(steps), fresh=np.sin(ends)),
            start=np.ones(()),
            draws=True,
        )
