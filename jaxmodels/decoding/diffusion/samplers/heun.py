"""Heun's method: every step but the last is made again with the mean of the slopes at both of its ends."""

from dataclasses import dataclass, field, replace

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas
from jaxmodels.decoding.diffusion.samplers.bounds import Bound
from jaxmodels.decoding.diffusion.samplers.euler import first_scale
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.decoding.diffusion.samplers.sigmas import SigmaGrid, levels
from jaxmodels.decoding.diffusion.samplers.spacing import Spacing, spaced_times


@struct.dataclass
class HeunRow:
    """One call of Heun's method.

    Attributes:
        alpha: factor of the clean data at the level that the step ends at.
        sigma: factor of the noise there.
        span: how far sigma falls in the step, negative.
        first: 1 where a step begins, 0 where its end has been reached and it is made again.
    """

    alpha: np.ndarray
    sigma: np.ndarray
    span: np.ndarray
    first: np.ndarray


def heun_rows(alphas: np.ndarray, sigmas: np.ndarray) -> tuple[np.ndarray, HeunRow]:
    """Which of the N levels each of the 2 N - 1 calls stands at, i64[2 N - 1], and its rows.

    Args:
        alphas: f64[N + 1], factors of the clean data, with those of the last step's end.
        sigmas: f64[N + 1], factors of the noise, likewise.
    """
    steps = len(sigmas) - 1
    at = np.repeat(np.arange(steps), 2)[1:]
    first = np.arange(2 * steps - 1) % 2 == 0
    begin = np.where(first, at, at - 1)
    rows = HeunRow(
        alpha=alphas[begin + 1],
        sigma=sigmas[begin + 1],
        span=sigmas[begin + 1] - sigmas[begin],
        first=first.astype(np.float64),
    )
    return at, rows


def heun_step(
    predicted: Predicted, row: HeunRow, before: Float[Array, "B H W C"], slope: Float[Array, "B H W C"]
) -> tuple[Float[Array, "B H W C"], Float[Array, "B H W C"]]:
    """The canvas after a call, and the canvas that its step began at.

    Args:
        predicted: the model's output, at the beginning of a step or at the end that was reached.
        row: of the call.
        before: the canvas that the last step began at.
        slope: of the canvas by sigma, as predicted.
    """
    reached = row.alpha * predicted.clean() + row.sigma * predicted.noise()
    again = 0.5 * (predicted.x + before + row.span * slope)
    first = jnp.asarray(row.first) > 0
    return jnp.where(first, reached, again), jnp.where(first, predicted.x, before)


@dataclass(frozen=True, kw_only=True)
class Heun:
    """Heun's method over noise levels (Karras et al. 2022, without churn), as
    `diffusers.HeunDiscreteScheduler`.

    A run of N steps calls the model 2 N - 1 times.

    Attributes:
        noise: the noise schedule.
        prediction: what the model's output is.
        spacing: which training steps a run visits.
        offset: added to the times of leading spacing.
        grid: where the noise levels lie, None for at the times of `spacing`.
        bound: what the clean data are held to, None for as they are. Slopes follow from what was held.

    Raises:
        ValueError: a number outside its range.
    """

    noise: Betas = field(default_factory=lambda: Betas(first=0.00085, last=0.012))
    prediction: Prediction = Prediction.EPSILON
    spacing: Spacing = Spacing.LINSPACE
    offset: int = 0
    grid: SigmaGrid | None = None
    bound: Bound | None = None

    def __post_init__(self) -> None:
        whole("offset", self.offset)

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        times = spaced_times(self.spacing, steps, self.noise.count, self.offset)
        times, sigmas = levels(self.grid, times, self.noise.sigmas)
        at, rows = heun_rows(np.ones(steps + 1), np.append(sigmas, 0.0))
        return Plan(
            times=times[at],
            input_scale=1 / np.sqrt(sigmas[at] ** 2 + 1),
            alpha=np.ones(len(at)),
            sigma=sigmas[at],
            rows=rows,
            start=first_scale(self.spacing, sigmas.max()),
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
        if self.bound is not None:
            held = self.bound(predicted.clean())
            predicted = replace(predicted, output=held, kind=Prediction.CLEAN)
        return heun_step(predicted, row, memory, predicted.noise())
