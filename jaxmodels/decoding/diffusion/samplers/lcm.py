"""Latent consistency models."""

from dataclasses import dataclass, field

import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas, BetaSchedule
from jaxmodels.decoding.diffusion.samplers.bounds import Bound
from jaxmodels.decoding.diffusion.samplers.sampler import Plan, whole_steps


@struct.dataclass
class Row:
    """Factors of the clean data, of the canvas and of fresh noise."""

    clean: np.ndarray
    canvas: np.ndarray
    fresh: np.ndarray


@dataclass(frozen=True, kw_only=True)
class LCM:
    """Latent consistency sampling (Luo et al. 2023), as `diffusers.LCMScheduler`: to the data, and back with
    fresh noise.

    Attributes:
        noise: the noise schedule.
        prediction: what the model's output is, before it is blended with the canvas.
        distilled: steps of the solver that the model was distilled from; runs visit a part of these.
        time_scale: times are multiplied by it where the share of the canvas is computed.
        bound: what the clean data are held to, None for as they are.
        visited: which of the `distilled` steps a run visits, rising numbers from 0 for the noisiest; None for
            as many as are asked for, spread evenly. Streams of frames begin at a later one than the first.

    Raises:
        ValueError: a number outside its range. When planned: a run of another length than `visited`.
    """

    noise: Betas = field(
        default_factory=lambda: Betas(schedule=BetaSchedule.SCALED_LINEAR, first=0.00085, last=0.012)
    )
    prediction: Prediction = Prediction.EPSILON
    distilled: int = 50
    time_scale: float = 10.0
    bound: Bound | None = None
    visited: tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        whole("distilled", self.distilled, low=1, high=self.noise.count)
        if self.visited is not None:
            _check_visited(self.visited, self.distilled)
        number("time_scale", self.time_scale, low=0.0, low_included=False)

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        times = self._times(steps)
        now = self.noise.products[times]
        then = np.append(now[1:], 1.0)
        scaled = times * self.time_scale
        return Plan(
            times=times.astype(np.float64),
            input_scale=np.ones(steps),
            alpha=np.sqrt(now),
            sigma=np.sqrt(1 - now),
            rows=Row(
                clean=np.sqrt(then) * scaled / np.sqrt(scaled**2 + 0.25),
                canvas=np.sqrt(then) * 0.25 / (scaled**2 + 0.25),
                fresh=np.sqrt(1 - then),
            ),
            start=np.ones(()),
            draws=True,
        )

    def _times(self, steps: int) -> np.ndarray:
        if self.visited is None:
            return distilled_times(steps, self.distilled, self.noise.count)
        if steps != len(self.visited):
            raise ValueError(f"steps={steps}, but visited={self.visited} are {len(self.visited)} steps")
        return distilled_times(self.distilled, self.distilled, self.noise.count)[list(self.visited)]

    def begin(self, x: Float[Array, "B H W C"]) -> tuple[()]:
        return ()

    def step(
        self, predicted: Predicted, row: Row, memory: tuple[()], noise: Float[Array, "B H W C"] | None
    ) -> tuple[Float[Array, "B H W C"], tuple[()]]:
        clean = predicted.clean() if self.bound is None else self.bound(predicted.clean())
        return row.clean * clean + row.canvas * predicted.x + row.fresh * noise, memory


def distilled_times(steps: int, distilled: int, count: int) -> np.ndarray:
    """i64[steps], falling: a part of the `distilled` training steps at which a model was distilled.

    Raises:
        ValueError: more steps than there are.
    """
    steps = whole_steps(steps, distilled)
    times = np.arange(distilled, 0, -1) * (count // distilled) - 1
    return times[np.floor(np.linspace(0, distilled, steps, endpoint=False)).astype(int)]


def _check_visited(visited: tuple[int, ...], distilled: int) -> None:
    numbers = [whole("visited", number, high=distilled - 1) for number in visited]
    if not numbers or numbers != sorted(set(numbers)):
        raise ValueError(f"visited must be rising numbers, at least one, got {visited}")
