"""Noise levels of a run, sigma relative to the data, and the training times they belong to."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from jaxmodels.checks import number


class SigmaGrid(Protocol):
    """Where the noise levels of a run lie, in place of those of spaced times. Implementations are
    hashable."""

    def __call__(self, steps: int, low: float, high: float) -> np.ndarray:
        """f64[steps], falling from `high` to `low`, unless the grid has ends of its own."""


@dataclass(frozen=True, kw_only=True)
class _Ends:
    """The ends of a grid.

    Attributes:
        low: the last level above 0; None: that of the noise schedule.
        high: the first level; None: that of the noise schedule.

    Raises:
        ValueError: a level that is not above 0.
    """

    low: float | None = None
    high: float | None = None

    def __post_init__(self) -> None:
        for name in ("low", "high"):
            if getattr(self, name) is not None:
                number(name, getattr(self, name), low=0.0, low_included=False)

    def ends(self, low: float, high: float) -> tuple[float, float]:
        return self.low or low, self.high or high


@dataclass(frozen=True, kw_only=True)
class KarrasGrid(_Ends):
    """Levels evenly spaced in their `rho`-th roots (Karras et al. 2022)."""

    rho: float = 7.0

    def __call__(self, steps: int, low: float, high: float) -> np.ndarray:
        low, high = self.ends(low, high)
        return np.linspace(high ** (1 / self.rho), low ** (1 / self.rho), steps) ** self.rho


@dataclass(frozen=True, kw_only=True)
class ExponentialGrid(_Ends):
    """Levels evenly spaced in their logarithms."""

    def __call__(self, steps: int, low: float, high: float) -> np.ndarray:
        low, high = self.ends(low, high)
        return np.exp(np.linspace(np.log(high), np.log(low), steps))


@dataclass(frozen=True, kw_only=True)
class BetaGrid(_Ends):
    """Levels at quantiles of the Beta(0.6, 0.6) distribution (Lee et al. 2024)."""

    def __call__(self, steps: int, low: float, high: float) -> np.ndarray:
        from scipy import stats  # not at the top: it takes half a second, and no other grid needs it

        low, high = self.ends(low, high)
        return low + stats.beta.ppf(1 - np.linspace(0, 1, steps), 0.6, 0.6) * (high - low)


def time_of_sigma(sigmas: np.ndarray, trained: np.ndarray) -> np.ndarray:
    """f64[N], broken training times: where noise levels lie among the rising f64[T] `trained`, by logarithms.

    The logarithms of `trained` are rounded as `diffusers` rounds them: where a solver cuts the times to whole
    ones, this decides whether the first is 999 or 998.
    """
    logs = np.log(trained.astype(np.float32)).astype(np.float64)
    return np.interp(np.log(np.maximum(sigmas, 1e-10)), logs, np.arange(len(trained)))


def levels(grid: SigmaGrid | None, times: np.ndarray, trained: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """f64[N] times and noise levels of a run over f64[N] spaced `times`, or over a grid between their levels.

    Args:
        grid: where the levels lie; None: at the times.
        times: falling, broken or whole.
        trained: f64[T], rising: the noise levels of all training steps.
    """
    spaced = np.interp(times, np.arange(len(trained)), trained)
    if grid is None:
        return times, spaced
    sigmas = grid(len(times), spaced[-1], spaced[0])
    return time_of_sigma(sigmas, trained), sigmas


def preserving(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Factors of the data and of the noise whose squares add up to 1, for noise relative to the data."""
    alphas = 1 / np.sqrt(sigmas**2 + 1)
    return alphas, sigmas * alphas
