"""pi-Flow: a model says once how the canvas moves over a whole segment of time, and small steps follow it."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.flow_schedule import FixedShift
from jaxmodels.decoding.diffusion.samplers.sampler import Plan


@dataclass(frozen=True, kw_only=True)
class Segments:
    """How time is cut into segments and small steps (Chen et al. 2025), as in `diffusers.PiflowScheduler`.

    Attributes:
        count: training steps, T; the model is shown ``T * sigma``.
        shift: what even times are bent with.
        last_length: the last segment, relative to the others.
        small_steps: small steps of the whole time; a segment has its share of them, at least one.
        least: where the last segment ends, in even times.

    Raises:
        ValueError: a number outside its range.
    """

    count: int = 1000
    shift: FixedShift = field(default_factory=lambda: FixedShift(factor=5.0))
    last_length: float = 0.5
    small_steps: int = 128
    least: float = 1e-6

    def __post_init__(self) -> None:
        whole("count", self.count, low=1)
        whole("small_steps", self.small_steps, low=1)
        number("last_length", self.last_length, low=0.0, low_included=False, high=1.0)
        number("least", self.least, low=0.0, low_included=False, high=1.0)

    def ends(self, steps: int) -> np.ndarray:
        """f64[steps + 1]: even times, from 1 down, that segments begin and end at."""
        steps = whole("steps", steps, low=1, high=self.count)
        length = 1.0 / (steps - 1 + self.last_length)
        return np.append(1.0 - np.arange(steps) * length, self.least)

    def small(self, steps: int) -> np.ndarray:
        """f64[steps, S + 1]: even times of the small steps of each segment; the shorter ones stand still at
        the end."""
        ends = self.ends(steps)
        counts = np.maximum(np.round((ends[:-1] - ends[1:]) * self.small_steps), 1).astype(int)
        places = np.minimum(np.arange(counts.max() + 1) / counts[:, None], 1.0)
        return ends[:-1, None] + places * (ends[1:] - ends[:-1])[:, None]

    def plan(self, steps: int, rows: object) -> Plan:
        """The plan of a run whose rows a policy has made."""
        sigmas = self.shift(self.ends(steps)[:-1], 0)
        return Plan(
            times=sigmas * self.count,
            input_scale=np.ones(steps),
            alpha=1 - sigmas,
            sigma=sigmas,
            rows=rows,
            start=np.ones(()),
        )


@struct.dataclass
class GridRow:
    """Factors of the canvas and of the clean data at each point of the grid."""

    canvas: np.ndarray
    clean: np.ndarray


@dataclass(frozen=True, kw_only=True)
class PiFlowGrid:
    """The DX policy, as `diffusers.PiflowScheduler`: clean data as they are to be predicted at times of a
    grid, linear in between.

    The model's output has `points` velocities one behind the other, the first for the end of the segment.
    What the small steps make of them is a sum, whose factors are made on the host.

    Attributes:
        segments: how time is cut.
        points: of the grid, >= 2.

    Raises:
        ValueError: `points` is below 2.
    """

    segments: Segments = field(default_factory=Segments)
    points: int = 10

    def __post_init__(self) -> None:
        whole("points", self.points, low=2)

    @property
    def prediction(self) -> Prediction:
        """Velocities of straight paths."""
        return Prediction.FLOW

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        small, least = self.segments.small(steps), self.segments.least
        sigmas = self.segments.shift(small, 0)
        length = np.maximum(small[:, :1] - small[:, -1:], least)
        place = np.clip((small - small[:, -1:]) / length, 0.0, 1.0) * (self.points - 1)
        weights = np.maximum(1 - np.abs(place[..., None] - np.arange(self.points)), 0.0)
        canvas, clean = np.ones(steps), np.zeros((steps, self.points))
        for at in range(small.shape[1] - 1):
            share = (sigmas[:, at + 1] - sigmas[:, at]) / np.maximum(sigmas[:, at], least)
            clean = clean * (1 + share)[:, None] - share[:, None] * weights[:, at]
            canvas = canvas * (1 + share)
        return self.segments.plan(steps, GridRow(canvas=canvas, clean=clean))

    def begin(self, x: Float[Array, "B H W C"]) -> tuple[()]:
        return ()

    def step(
        self, predicted: Predicted, row: GridRow, memory: tuple[()], noise: Float[Array, "B H W C"] | None
    ) -> tuple[Float[Array, "B H W C"], tuple[()]]:
        x = predicted.x
        velocities = _parts(predicted, self.points, 0)[0]
        clean = x[..., None, :] - predicted.sigma * velocities
        return jnp.asarray(row.canvas) * x + jnp.einsum("...kc,k->...c", clean, row.clean), memory


@struct.dataclass
class SmallSteps:
    """Noise levels of a segment's small steps, [S + 1]."""

    sigmas: np.ndarray


@dataclass(frozen=True, kw_only=True)
class PiFlowMixture:
    """The GM policy: the clean data as a mixture of Gaussians for each pixel, which every small step narrows
    down by where the canvas has come to.

    The published models give these by heads of their own. Here they are the channels of one output, which is
    our choice: `components` velocities that lead to the means, as many logarithms of weights, and one
    logarithm of a deviation, which counts in units of sigma.

    Attributes:
        segments: how time is cut.
        components: Gaussians of a mixture.

    Raises:
        ValueError: `components` is not a whole number from 1.
    """

    segments: Segments = field(default_factory=Segments)
    components: int = 8

    def __post_init__(self) -> None:
        whole("components", self.components, low=1)

    @property
    def prediction(self) -> Prediction:
        """Velocities of straight paths."""
        return Prediction.FLOW

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        sigmas = self.segments.shift(self.segments.small(steps), 0)
        return self.segments.plan(steps, SmallSteps(sigmas=sigmas))

    def begin(self, x: Float[Array, "B H W C"]) -> tuple[()]:
        return ()

    def step(
        self, predicted: Predicted, row: SmallSteps, memory: tuple[()], noise: Float[Array, "B H W C"] | None
    ) -> tuple[Float[Array, "B H W C"], tuple[()]]:
        x, sigma = predicted.x, predicted.sigma
        velocities, rest = _parts(predicted, self.components, self.components + 1)
        means = x[..., None, :] - sigma * velocities
        variance = (jnp.exp(rest[..., -1:]) * sigma) ** 2

        def move(canvas: Array, levels: tuple[Array, Array]) -> tuple[Array, None]:
            now, then = levels
            clean = posterior_mean(canvas, now, x, sigma, means, variance, rest[..., :-1])
            return canvas + (canvas - clean) / now * (then - now), None

        sigmas = jnp.asarray(row.sigmas)
        moved, _ = lax.scan(move, x, (sigmas[:-1], sigmas[1:]))
        return moved, memory


def posterior_mean(
    x: Float[Array, "B H W C"],
    sigma: Float[Array, ""],
    before: Float[Array, "B H W C"],
    before_sigma: Float[Array, ""],
    means: Float[Array, "B H W K C"],
    variance: Float[Array, "B H W 1"],
    log_weights: Float[Array, "B H W K"],
) -> Float[Array, "B H W C"]:
    """The mean of the clean data of a canvas, given their mixture at a noisier canvas of the same path.

    Args:
        x: the canvas.
        sigma: its noise level, above 0.
        before: the noisier canvas.
        before_sigma: its noise level.
        means: of the mixture's components, given `before`.
        variance: of all components and channels.
        log_weights: of the components, up to a constant.
    """
    ratio, before_ratio = (1 - sigma) / sigma, (1 - before_sigma) / before_sigma
    sharper = ratio**2 - before_ratio**2
    seen = (ratio * x / sigma - before_ratio * before / before_sigma)[..., None, :]
    width = (1 + variance * sharper)[..., None]
    narrowed = (variance[..., None] * seen + means) / width
    likelihood = (means * (seen - 0.5 * sharper * means) / width).sum(-1)
    weights = jax.nn.softmax(log_weights + likelihood, axis=-1)
    return (weights[..., None] * narrowed).sum(-2)


def _parts(
    predicted: Predicted, many: int, more: int
) -> tuple[Float[Array, "B H W K C"], Float[Array, "B H W E"]]:
    """`many` outputs as wide as the canvas, and `more` channels behind them."""
    output, channels = predicted.output.astype(jnp.float32), predicted.x.shape[-1]
    expected = many * channels + more
    if output.shape[-1] != expected:
        raise ValueError(
            f"the policy needs a model that gives {expected} channels for canvases of {channels}, got "
            f"{output.shape[-1]}"
        )
    wide = output[..., : many * channels]
    return wide.reshape(*wide.shape[:-1], many, channels), output[..., many * channels :]
