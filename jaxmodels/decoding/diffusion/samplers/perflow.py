"""Piecewise rectified flow."""

from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.betas import Betas, BetaSchedule
from jaxmodels.decoding.diffusion.samplers.sampler import Plan


class WindowOutput(StrEnum):
    """What a model says of a window of time, in the names of the published code."""

    DDIM_NOISE = "ddim_eps"  # the noise that a DDIM step from the window's start to its end would use
    DIFFUSED_NOISE = "diff_eps"  # the noise that diffuses the window's end to its start
    VELOCITY = "velocity"  # the slope of the canvas by time


@struct.dataclass
class Row:
    """Factors of the canvas and of the model's output."""

    canvas: np.ndarray
    output: np.ndarray


@dataclass(frozen=True, kw_only=True)
class PeRFlow:
    """Straight paths in each of several windows of time (Yan et al. 2024, and its `PeRFlowScheduler`).

    Every window has as many steps as any other, the first ones another if there are some left.

    Attributes:
        noise: the noise schedule.
        windows: how many windows of equal length the time has.
        output: what the model's output is.

    Raises:
        ValueError: `windows` is out of range.
    """

    noise: Betas = field(
        default_factory=lambda: Betas(schedule=BetaSchedule.SCALED_LINEAR, first=0.00085, last=0.012)
    )
    windows: int = 4
    output: WindowOutput = WindowOutput.DDIM_NOISE

    def __post_init__(self) -> None:
        object.__setattr__(self, "output", WindowOutput(self.output))
        whole("windows", self.windows, low=1, high=self.noise.count)

    @property
    def prediction(self) -> Prediction:
        """The noise; a velocity is one of the window's own time."""
        return Prediction.FLOW if self.output is WindowOutput.VELOCITY else Prediction.EPSILON

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        count, products = self.noise.count, self.noise.products
        whole(f"steps of {self.windows} windows", steps, low=self.windows, high=count)
        times, window = self._times(steps)
        now = times / count
        start, end = 1 - window / self.windows, 1 - (window + 1) / self.windows
        noisy = products[_index(start, count)]
        clear = products[_index(end, count)]
        spans = np.diff(np.append(times, 0)) / count
        canvas, output = self._velocity(now, start, end, noisy, clear)
        at = products[np.maximum(times - 1, 0)]
        return Plan(
            times=times.astype(np.float64),
            input_scale=np.ones(steps),
            alpha=np.sqrt(at),
            sigma=np.sqrt(1 - at),
            rows=Row(canvas=1 + spans * canvas, output=spans * output),
            start=np.ones(()),
        )

    def begin(self, x: Float[Array, "B H W C"]) -> tuple[()]:
        return ()

    def step(
        self, predicted: Predicted, row: Row, memory: tuple[()], noise: Float[Array, "B H W C"] | None
    ) -> tuple[Float[Array, "B H W C"], tuple[()]]:
        return row.canvas * predicted.x + row.output * predicted.raw(), memory

    def _times(self, steps: int) -> tuple[np.ndarray, np.ndarray]:
        """i64[steps] training times, falling, and the window that each lies in, 0 for the noisiest."""
        most, left = divmod(steps, self.windows)
        times, windows = [], []
        for window in range(self.windows):
            inside = most + (window < left)
            start, end = 1 - window / self.windows, 1 - (window + 1) / self.windows
            times.append(np.linspace(start, end, inside, endpoint=False))
            windows.append(np.full(inside, window))
        whole_times = (np.concatenate(times) * self.noise.count).astype(np.int64)
        return whole_times, np.concatenate(windows)

    def _velocity(
        self, now: np.ndarray, start: np.ndarray, end: np.ndarray, noisy: np.ndarray, clear: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the velocity holds of the canvas and of the output.

        Args:
            now: f64[N], times from 0 to 1; so are `start` and `end` of their windows.
            start: f64[N].
            end: f64[N].
            noisy: f64[N], a_t at the windows' starts.
            clear: f64[N], a_t at their ends.
        """
        if self.output is WindowOutput.VELOCITY:
            return np.zeros(len(now)), np.ones(len(now))
        grown = np.sqrt(clear / noisy)  # of the canvas at the start, in the canvas at the end
        if self.output is WindowOutput.DDIM_NOISE:
            removed = np.sqrt(1 - clear) - grown * np.sqrt(1 - noisy)
        else:
            removed = -np.sqrt(1 - noisy / clear) * grown
        # Solved for the canvas at the end, given one that lies on the line between the two.
        share = grown * (now - start) + end - now
        canvas, output = grown * (end - start) / share, removed * (end - now) / share
        return (canvas - 1) / (end - now), output / (end - now)


def _index(time: np.ndarray, count: int) -> np.ndarray:
    """i64[N]: where the noise of times from 0 to 1 is in the tables."""
    return np.maximum((time * count - 1).astype(np.int64), 0)
