"""DPM-Solver++ in several steps."""

from dataclasses import dataclass, field

import numpy as np

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas, BetaSchedule
from jaxmodels.decoding.diffusion.samplers.flow_schedule import FlowSchedule, check_flow
from jaxmodels.decoding.diffusion.samplers.multistep import LastStep, Multistep
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.decoding.diffusion.samplers.sigmas import KarrasGrid, SigmaGrid, preserving, time_of_sigma
from jaxmodels.decoding.diffusion.samplers.spacing import Spacing, solver_times


@dataclass(frozen=True, kw_only=True)
class DPMPP(Multistep):
    """DPM-Solver++ (Lu et al. 2022), multistep, as `diffusers.DPMSolverMultistepScheduler`.

    Attributes:
        noise: the noise schedule.
        prediction: what the model's output is.
        spacing: which training steps a run visits.
        offset: added to the times of leading spacing.
        grid: where noise levels lie between the ends of the whole schedule, None for at the times of
            `spacing`.
        flow: a schedule of flow matching in place of `noise`, `spacing` and `grid`; None for none. `noise`
            still says where a last step ends that is not at clean data.
        least_log_snr: the least log(alpha / sigma) of training steps that are visited, None for all.

    Raises:
        ValueError: a number outside its range, or `grid` beside `flow`.
    """

    noise: Betas = field(default_factory=Betas)
    prediction: Prediction = Prediction.EPSILON
    spacing: Spacing = Spacing.LINSPACE
    offset: int = 0
    grid: SigmaGrid | None = None
    flow: FlowSchedule | None = None
    least_log_snr: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        whole("offset", self.offset)
        if self.least_log_snr is not None:
            number("least_log_snr", self.least_log_snr)
        check_flow(self.prediction, self.flow)
        if self.grid is not None and self.flow is not None:
            raise ValueError(
                f"grid={self.grid} cannot be used with flow={self.flow}: one of them must be None"
            )

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        end = 0.0 if self.last is LastStep.CLEAN else self.noise.sigmas[0]
        if self.flow is None:
            times, sigmas = self._levels(steps)
            times = np.trunc(times)
            alphas, sigmas = preserving(np.append(sigmas, end))
        else:
            sigmas = self.flow.sigmas(steps, tokens)
            times = self.flow.step_times(sigmas)
            sigmas = np.append(sigmas, end)
            alphas = 1 - sigmas
        return Plan(
            times=times,
            input_scale=np.ones(len(times)),
            alpha=alphas[:-1],
            sigma=sigmas[:-1],
            rows=self.rows(alphas, sigmas),
            start=np.ones(()),
            draws=self.fresh_noise,
        )

    def _levels(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """f64[steps] times, not yet cut to whole ones, and noise relative to the data."""
        trained, count = self.noise.sigmas, self.noise.count
        last = count
        if self.least_log_snr is not None:
            last = int((-np.log(trained) > self.least_log_snr).sum())
        times = solver_times(self.spacing, steps, count, self.offset, last).astype(np.float64)
        if self.grid is None:
            return times, trained[times.astype(int)]
        sigmas = self.grid(steps, trained[0], trained[-1])
        times = time_of_sigma(sigmas, trained)
        if isinstance(self.grid, KarrasGrid) and self.noise.schedule is not BetaSchedule.COSINE:
            times = np.round(times)
        return times, sigmas
