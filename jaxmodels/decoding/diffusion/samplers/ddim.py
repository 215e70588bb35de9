"""DDIM."""

from dataclasses import dataclass, field

import numpy as np

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.prediction import Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas
from jaxmodels.decoding.diffusion.samplers.first_order import FirstOrder, Level
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.decoding.diffusion.samplers.spacing import Spacing, whole_times


@dataclass(frozen=True, kw_only=True)
class DDIM(FirstOrder):
    """Denoising diffusion implicit models (Song et al. 2021), as `diffusers.DDIMScheduler`.

    A step always leads T // steps training steps towards the data, whatever the next time of the run is: with
    linear spacing and 7 steps the times are 999, 832, ..., but the first step ends at 857.

    Attributes:
        noise: the noise schedule.
        prediction: what the model's output is.
        spacing: which training steps a run visits.
        offset: added to the times of leading spacing.
        ends_clean: whether the last step ends at clean data; else at the noise of the first training step.
        eta: fresh noise per step, relative to that of DDPM: 0 is deterministic, 1 the most.

    Raises:
        ValueError: a number outside its range.
    """

    noise: Betas = field(default_factory=Betas)
    prediction: Prediction = Prediction.EPSILON
    spacing: Spacing = Spacing.LEADING
    offset: int = 0
    ends_clean: bool = True
    eta: float = 0.0

    def __post_init__(self) -> None:
        whole("offset", self.offset)
        number("eta", self.eta, low=0.0, high=1.0)

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        count, products = self.noise.count, self.noise.products
        times = whole_times(self.spacing, steps, count, self.offset)
        before = times - count // steps
        final = 1.0 if self.ends_clean else products[0]
        now, then = products[times], np.where(before >= 0, products[before], final)
        fresh = self.eta * np.sqrt((1 - then) / (1 - now) * (1 - now / then))
        return Plan(
            times=times.astype(np.float64),
            input_scale=np.ones(steps),
            alpha=np.sqrt(now),
            sigma=np.sqrt(1 - now),
            rows=Level(alpha=np.sqrt(then), sigma=np.sqrt(1 - then - fresh**2), fresh=fresh),
            start=np.ones(()),
            draws=self.eta > 0,
        )
