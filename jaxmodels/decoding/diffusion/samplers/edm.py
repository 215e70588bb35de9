"""The schedule of EDM, and Euler's method and DPM-Solver++ over it."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from jaxmodels.checks import number
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.first_order import FirstOrder, Level
from jaxmodels.decoding.diffusion.samplers.multistep import LastStep, Multistep
from jaxmodels.decoding.diffusion.samplers.sampler import Plan, whole_steps
from jaxmodels.decoding.diffusion.samplers.sigmas import ExponentialGrid, KarrasGrid, SigmaGrid


@dataclass(frozen=True, kw_only=True)
class EDMSchedule:
    """Noise levels and scaling of Karras et al. 2022, for canvases ``data + sigma * noise``.

    Attributes:
        low: the last level above 0.
        high: the first level.
        data: the deviation of the data.
        grid: where levels lie in between.
        count: training steps, which bound a run.

    Raises:
        ValueError: a number outside its range.
    """

    low: float = 0.002
    high: float = 80.0
    data: float = 0.5
    grid: SigmaGrid = field(default_factory=KarrasGrid)
    count: int = 1000

    def __post_init__(self) -> None:
        number("low", self.low, low=0.0, low_included=False)
        number("high", self.high, low=self.low)
        number("data", self.data, low=0.0, low_included=False)

    def sigmas(self, steps: int) -> np.ndarray:
        """f64[steps], falling. A run of one step over an exponential grid has its lowest level, as in
        `diffusers`."""
        steps = whole_steps(steps, self.count)
        if steps == 1 and isinstance(self.grid, ExponentialGrid):
            return np.array([self.low])
        return self.grid(steps, self.low, self.high)

    def plan(self, sigmas: np.ndarray, rows: Any, *, draws: bool = False) -> Plan:
        """The plan of a run over these levels. Its clean data have a deviation of 1."""
        return Plan(
            times=0.25 * np.log(sigmas),
            input_scale=1 / np.sqrt(sigmas**2 + self.data**2),
            alpha=np.full(len(sigmas), self.data),
            sigma=sigmas,
            rows=rows,
            start=np.asarray(np.sqrt(self.high**2 + 1)),
            draws=draws,
        )


@dataclass(frozen=True, kw_only=True)
class EDMEuler(FirstOrder):
    """Euler's method without churn, as `diffusers.EDMEulerScheduler`.

    Attributes:
        schedule: the noise levels.
        prediction: what the model's output is; `diffusers` calls EDM's own "epsilon".
        last: where the last step ends.
    """

    schedule: EDMSchedule = field(default_factory=EDMSchedule)
    prediction: Prediction = Prediction.EDM
    last: LastStep = LastStep.CLEAN

    def __post_init__(self) -> None:
        object.__setattr__(self, "last", LastStep(self.last))

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        sigmas = self.schedule.sigmas(steps)
        ends = np.append(sigmas[1:], 0.0 if self.last is LastStep.CLEAN else sigmas[-1])
        alphas = np.full(len(ends), self.schedule.data)
        return self.schedule.plan(sigmas, Level(alpha=alphas, sigma=ends, fresh=np.zeros(len(ends))))


@dataclass(frozen=True, kw_only=True)
class EDMDPMPP(Multistep):
    """DPM-Solver++, as `diffusers.EDMDPMSolverMultistepScheduler`.

    Attributes:
        schedule: the noise levels.
        prediction: what the model's output is; `diffusers` calls EDM's own "epsilon".

    Raises:
        ValueError: third order with fresh noise, which `diffusers` fails at, or what `Multistep` raises.
    """

    schedule: EDMSchedule = field(default_factory=EDMSchedule)
    prediction: Prediction = Prediction.EDM

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.order > 2 and self.fresh_noise:
            raise ValueError(
                f"fresh_noise=True goes with an order of 1 or 2 over EDM's levels, got {self.order}"
            )

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        sigmas = self.schedule.sigmas(steps)
        ends = np.append(sigmas, 0.0 if self.last is LastStep.CLEAN else self.schedule.low)
        alphas = np.full(len(ends), self.schedule.data)
        return self.schedule.plan(sigmas, self.rows(alphas, ends), draws=self.fresh_noise)
