"""DDPM, ancestral sampling."""

from dataclasses import dataclass, field
from enum import StrEnum

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas
from jaxmodels.decoding.diffusion.samplers.bounds import Bound
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.decoding.diffusion.samplers.spacing import Spacing, whole_times


class Variance(StrEnum):
    """How much fresh noise a step adds."""

    SMALL = "fixed_small"  # the posterior's for data without a variance
    SMALL_LOG = "fixed_small_log"  # the same
    LARGE = "fixed_large"  # beta
    LEARNED_RANGE = "learned_range"  # between the two, by the model (Nichol and Dhariwal 2021)


@struct.dataclass
class Row:
    """Factors of the clean data, of the canvas, and the log-variances of fresh noise.

    Attributes:
        clean: of the predicted data.
        canvas: of the canvas.
        small: logarithm of the smallest variance of fresh noise.
        large: of the largest; the same where a model predicts none.
        fresh: 1 where noise is added, 0 at training step 0.
    """

    clean: np.ndarray
    canvas: np.ndarray
    small: np.ndarray
    large: np.ndarray
    fresh: np.ndarray


@dataclass(frozen=True, kw_only=True)
class DDPM:
    """Denoising diffusion probabilistic models (Ho et al. 2020), as `diffusers.DDPMScheduler`.

    Attributes:
        noise: the noise schedule.
        prediction: what the model's output is.
        spacing: which training steps a run visits.
        offset: added to the times of leading spacing.
        bound: what the clean data are held to, None for as they are.
        variance: how much fresh noise a step adds. Learned ranges need a model with twice the channels.

    Raises:
        ValueError: a number outside its range.
    """

    noise: Betas = field(default_factory=Betas)
    prediction: Prediction = Prediction.EPSILON
    spacing: Spacing = Spacing.LEADING
    offset: int = 0
    bound: Bound | None = None
    variance: Variance = Variance.SMALL

    def __post_init__(self) -> None:
        object.__setattr__(self, "variance", Variance(self.variance))
        whole("offset", self.offset)

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        products = self.noise.products
        times = whole_times(self.spacing, steps, self.noise.count, self.offset)
        now, then = products[times], np.append(products[times[1:]], 1.0)
        beta = 1 - now / then
        small = np.log(np.maximum((1 - then) / (1 - now) * beta, 1e-20))
        large = np.log(beta)
        if self.variance in (Variance.SMALL, Variance.SMALL_LOG):
            large = small
        elif self.variance is Variance.LARGE:
            small = large
        return Plan(
            times=times.astype(np.float64),
            input_scale=np.ones(steps),
            alpha=np.sqrt(now),
            sigma=np.sqrt(1 - now),
            rows=Row(
                clean=np.sqrt(then) * beta / (1 - now),
                canvas=np.sqrt(now / then) * (1 - then) / (1 - now),
                small=small,
                large=large,
                fresh=(times > 0).astype(np.float64),
            ),
            start=np.ones(()),
            draws=True,
        )

    def begin(self, x: Float[Array, "B H W C"]) -> tuple[()]:
        return ()

    def step(
        self, predicted: Predicted, row: Row, memory: tuple[()], noise: Float[Array, "B H W C"] | None
    ) -> tuple[Float[Array, "B H W C"], tuple[()]]:
        clean = predicted.clean() if self.bound is None else self.bound(predicted.clean())
        log_variance = jnp.asarray(row.small)
        if self.variance is Variance.LEARNED_RANGE:
            share = (self._learned(predicted) + 1) / 2
            log_variance = share * row.large + (1 - share) * row.small
        x = row.clean * clean + row.canvas * predicted.x
        return x + row.fresh * jnp.exp(0.5 * log_variance) * noise, memory

    def _learned(self, predicted: Predicted) -> Float[Array, "B H W C"]:
        learned, channels = predicted.extra(), predicted.x.shape[-1]
        if learned.shape[-1] != channels:
            raise ValueError(
                f"variance={self.variance.value!r} needs a model that gives {2 * channels} channels for "
                f"canvases of {channels}, noise and variance, got {predicted.output.shape[-1]}"
            )
        return learned
