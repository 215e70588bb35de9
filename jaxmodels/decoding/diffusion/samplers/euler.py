"""Euler's method along the probability flow."""

from dataclasses import dataclass, field

import numpy as np

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas
from jaxmodels.decoding.diffusion.samplers.first_order import FirstOrder, Level
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.decoding.diffusion.samplers.sigmas import SigmaGrid, levels
from jaxmodels.decoding.diffusion.samplers.spacing import Spacing, spaced_times


@dataclass(frozen=True, kw_only=True)
class Euler(FirstOrder):
    """Euler's method over noise levels (Karras et al. 2022, without churn), as
    `diffusers.EulerDiscreteScheduler`.

    Canvases are ``clean + sigma * noise``; the model sees them divided by ``sqrt(sigma^2 + 1)``.

    Attributes:
        noise: the noise schedule.
        prediction: what the model's output is.
        spacing: which training steps a run visits.
        offset: added to the times of leading spacing.
        grid: where the noise levels lie, None for at the times of `spacing`.
        ends_clean: whether the last step ends at clean data; else at the noise of the first training step.
        log_times: whether the model, which predicts a velocity, is shown ``log(sigma) / 4`` in place of
            training times.

    Raises:
        ValueError: a number outside its range, or `log_times` for a model that predicts something else.
    """

    noise: Betas = field(default_factory=Betas)
    prediction: Prediction = Prediction.EPSILON
    spacing: Spacing = Spacing.LINSPACE
    offset: int = 0
    grid: SigmaGrid | None = None
    ends_clean: bool = True
    log_times: bool = False

    def __post_init__(self) -> None:
        whole("offset", self.offset)
        if self.log_times and self.prediction is not Prediction.V:
            raise ValueError(
                f"log_times=True (timestep_type 'continuous') needs prediction {Prediction.V.value!r}, got "
                f"{self.prediction.value!r}"
            )

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        trained = self.noise.sigmas
        times = spaced_times(self.spacing, steps, self.noise.count, self.offset)
        times, sigmas = levels(self.grid, times, trained)
        ends = np.append(sigmas, 0.0 if self.ends_clean else trained[0])
        return Plan(
            times=0.25 * np.log(sigmas) if self.log_times else times,
            input_scale=1 / np.sqrt(sigmas**2 + 1),
            alpha=np.ones(steps),
            sigma=sigmas,
            rows=Level(alpha=np.ones(steps), sigma=ends[1:], fresh=np.zeros(steps)),
            start=first_scale(self.spacing, ends.max()),
        )


def first_scale(spacing: Spacing, sigma: float) -> np.ndarray:
    """f64[]: how much noise a run of canvases ``clean + sigma * noise`` begins with.

    Only leading spacing counts the data's own variance, since only there the first level is far from the last
    training step's.
    """
    return np.asarray(np.sqrt(sigma**2 + 1) if spacing is Spacing.LEADING else sigma)
