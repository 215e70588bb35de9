"""Noise levels of flow matching, from 1 to 0, and the shifts that spend more of them on noise."""

import math
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.prediction import Prediction


class Shift(Protocol):
    """Bends noise levels from 0 to 1. Implementations are hashable."""

    def __call__(self, sigmas: np.ndarray, tokens: int) -> np.ndarray: ...


@dataclass(frozen=True, kw_only=True)
class FixedShift:
    """``s sigma / (1 + (s - 1) sigma)`` (Esser et al. 2024).

    Attributes:
        factor: s, > 0; 1 bends nothing.

    Raises:
        ValueError: `factor` is not above 0.
    """

    factor: float = 1.0

    def __post_init__(self) -> None:
        number("factor", self.factor, low=0.0, low_included=False)

    def __call__(self, sigmas: np.ndarray, tokens: int) -> np.ndarray:
        return self.factor * sigmas / (1 + (self.factor - 1) * sigmas)


class ShiftForm(StrEnum):
    """What `TokenShift` makes of mu."""

    EXPONENTIAL = "exponential"  # shifts by e^mu
    LINEAR = "linear"  # shifts by mu


@dataclass(frozen=True, kw_only=True)
class TokenShift:
    """A shift by mu, which grows with the number of image tokens, as the pipelines of `diffusers` compute it.

    Attributes:
        low: mu for `fewest` tokens.
        high: mu for `most` tokens; between the two, and beyond them, mu is linear.
        fewest: tokens of the smallest images.
        most: tokens of the largest images.
        form: what is made of mu.

    Raises:
        ValueError: `most` is not above `fewest`, or a number that is not finite.
    """

    low: float = 0.5
    high: float = 1.15
    fewest: int = 256
    most: int = 4096
    form: ShiftForm = ShiftForm.EXPONENTIAL

    def __post_init__(self) -> None:
        object.__setattr__(self, "form", ShiftForm(self.form))
        number("low", self.low)
        number("high", self.high)
        whole("most", self.most, low=whole("fewest", self.fewest) + 1)

    def __call__(self, sigmas: np.ndarray, tokens: int) -> np.ndarray:
        tokens = whole("tokens, the number of image tokens that the shift depends on,", tokens, low=1)
        slope = (self.high - self.low) / (self.most - self.fewest)
        mu = tokens * slope + (self.low - slope * self.fewest)
        if self.form is ShiftForm.EXPONENTIAL:
            return math.exp(mu) / (math.exp(mu) + (1 / sigmas - 1))
        return mu / (mu + (1 / sigmas - 1))


class FlowLevels(StrEnum):
    """Which levels a run of N steps shifts; all are even before."""

    TRAINED = "trained"  # between the ends of the training schedule, which a fixed shift has bent before
    EVEN = "even"  # from 1 to 1 / N
    BEFORE_LAST = "before_last"  # from 1 on, with the last training level, 1 / T, one step behind the run
    BELOW_ONE = "below_one"  # from 1 - 1 / T on, with 0 one step behind the run


class FlowTime(StrEnum):
    """Which way a model's time runs."""

    NOISE = "noise"  # with sigma: 0 is data
    DATA = "data"  # against it: 0 is noise, as in SiT, DDT and shortcut models


@dataclass(frozen=True, kw_only=True)
class FlowSchedule:
    """Noise levels of ``x = (1 - sigma) * clean + sigma * noise``.

    Attributes:
        count: training steps, T. The model is shown T times its time from 0 to 1; with 1 training step that
            time itself.
        time: which way that time runs.
        shift: how levels are bent.
        levels: which levels of a run are bent, or these themselves. `diffusers` shifts twice by default, and
            so does `TRAINED`: the ends between which a run is spaced are shifted ones. Its pipelines of
            Stable Diffusion 3 and Sana leave it at that, those of Flux hand over even ones.
        terminal: stretches the shifted levels such that the last before 0 is this one, None for as they are.

    Raises:
        ValueError: a number outside its range, or levels that do not fall within 1 to 0.
    """

    count: int = 1000
    time: FlowTime = FlowTime.NOISE
    shift: Shift = FixedShift()
    levels: FlowLevels | tuple[float, ...] = FlowLevels.TRAINED
    terminal: float | None = None

    def __post_init__(self) -> None:
        whole("count", self.count, low=1)
        object.__setattr__(self, "time", FlowTime(self.time))
        if isinstance(self.levels, tuple):
            for level in self.levels:
                number("each of the levels", level, low=0.0, low_included=False, high=1.0)
        else:
            object.__setattr__(self, "levels", FlowLevels(self.levels))
        if self.terminal is not None:
            number("terminal", self.terminal, low=0.0, low_included=False, high=1.0)

    def times(self, sigmas: np.ndarray) -> np.ndarray:
        """f64[...]: what the model is shown at noise levels."""
        return self.count * (sigmas if self.time is FlowTime.NOISE else 1 - sigmas)

    def step_times(self, sigmas: np.ndarray) -> np.ndarray:
        """f64[...]: `times`, cut to whole training steps as the multistep solvers of `diffusers` do. A model
        of 1 training step is shown a time from 0 to 1, of which nothing is cut."""
        times = self.times(sigmas)
        return times if self.count == 1 else np.trunc(times)

    def sigmas(self, steps: int, tokens: int) -> np.ndarray:
        """f64[steps], falling, all above 0."""
        steps = whole("steps", steps, low=1)
        sigmas = self.shift(self._unshifted(steps), tokens)
        if self.terminal is None:
            return sigmas
        if sigmas[-1] == 1:
            raise ValueError(
                f"terminal={self.terminal} cannot be reached in steps={steps}: the last noise level is 1"
            )
        return 1 - (1 - sigmas) / ((1 - sigmas[-1]) / (1 - self.terminal))

    def _unshifted(self, steps: int) -> np.ndarray:
        if isinstance(self.levels, tuple):
            if len(self.levels) != steps:
                raise ValueError(f"the schedule has {len(self.levels)} levels of its own, but steps={steps}")
            return np.asarray(self.levels)
        match self.levels:
            case FlowLevels.EVEN:
                return np.linspace(1.0, 1 / steps, steps)
            case FlowLevels.BEFORE_LAST:
                return np.linspace(1.0, 1 / self.count, steps + 1)[:-1]
            case FlowLevels.BELOW_ONE:
                return np.linspace(1 - 1 / self.count, 0.0, steps + 1)[:-1]
        ends = np.array([1.0, 1 / self.count])
        if isinstance(self.shift, FixedShift):
            ends = self.shift(ends, 0)
        return np.linspace(ends[0], ends[1], steps)


def check_flow(prediction: Prediction, flow: FlowSchedule | None) -> None:
    """That a model's output can be read in a solver's noise levels.

    Raises:
        ValueError: a flow without levels of flow matching, or a velocity of variance preserving diffusion
            with.
    """
    if flow is None and prediction in (Prediction.FLOW, Prediction.FLOW_TO_DATA):
        raise ValueError(
            f"prediction {prediction.value!r} needs noise levels of flow matching, but flow is None"
        )
    if flow is not None and prediction is Prediction.V:
        raise ValueError(f"prediction {prediction.value!r} cannot be read in the noise levels of flow={flow}")
