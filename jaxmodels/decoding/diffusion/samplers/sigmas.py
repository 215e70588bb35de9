"""Noise levels of a run, sigma relative to the data, and the training times they belong to."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import stats

from jaxmodels.checks import number


class SigmaGrid(Protocol):
    """Where the noise levels of a run lie. Implementations are hashable."""

    def __call__(self, sigmas: np.ndarray) -> np.ndarray:
        """f64[steps], falling, for a run whose times lie at f64[steps] `sigmas`."""


@dataclass(frozen=True)
class AtTimes:
    """The noise levels of the times that were spaced."""

    def __call__(self, sigmas: np.ndarray) -> np.ndarray:
        return sigmas


AT_TIMES = AtTimes()


@dataclass(frozen=True, kw_only=True)
class _Ends:
    """The ends of a grid that replaces the levels of spaced times.

    Attributes:
        low: the last level above 0; None: that of the last spaced time.
        high: the first level; None: that of the first spaced time.

    Raises:
        ValueError: a level that is not above 0.
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), low=0.0, low_included=False)

    def ends(self, sigmas: np.ndarray) -> tuple[float, float]:
        low = sigmas[-1] if self.low is None else self.low
        high = sigmas[0] if self.high is None else self.high
        return float(low), float(high)


class KarrasGrid(_Ends):
    """Levels evenly spaced in their 7th roots (Karras et al. 2022)."""

    def __call__(self, sigmas: np.ndarray) -> np.ndarray:
        low, high = self.ends(sigmas)
        return np.linspace(high ** (1 / 7), low ** (1 / 7), len(sigmas)) ** 7


class ExponentialGrid(_Ends):
    """Levels evenly spaced in their logarithms."""

    def __call__(self, sigmas: np.ndarray) -> np.ndarray:
        low, high = self.ends(sigmas)
        return np.exp(np.linspace(np.log(high), np.log(low), len(sigmas)))


class BetaGrid(_Ends):
    """Levels at quantiles of the Beta(0.6, 0.6) distribution (Lee et al. 2024)."""

    def __call__(self, sigmas: np.ndarray) -> np.ndarray:
        low, high = self.ends(sigmas)
        return low + stats.beta.ppf(1 - np.linspace(0, 1, len(sigmas)), 0.6, 0.6) * (high - low)


def time_of_sigma(sigmas: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """f64[N], broken training times: where noise levels lie among the rising f64[T] `trained`, by
    logarithms."""
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), np.log(trained), np.arange(len(trained)))


def levels(grid: SigmaGrid, times: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f64[N] times and noise levels of a run over f64[N] spaced `times`, of which a grid may make others.

    Args:
        grid: where the levels lie.
        times: falling, broken or whole.
        trained: f64[T], rising: the noise levels of all training steps.
    """
    spaced = np.interp(times, np.arange(len(trained)), trained)
    if grid == AT_TIMES:
        return times, spaced
    sigmas = grid(spaced)
    return time_of_sigma(sigmas, trained), sigmas
