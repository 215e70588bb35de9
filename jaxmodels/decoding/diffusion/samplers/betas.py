"""Noise schedules of diffusion with discrete times: how much noise each training step adds."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np

from jaxmodels.checks import number, whole


class BetaSchedule(StrEnum):
    """How the betas run between the first and the last."""

    LINEAR = "linear"
    SCALED_LINEAR = "scaled_linear"  # linear in their square roots
    COSINE = "squaredcos_cap_v2"  # Nichol and Dhariwal 2021
    LAPLACE = "laplace"
    EXPONENTIAL = "exp"
    SIGMOID = "sigmoid"


@dataclass(frozen=True, kw_only=True)
class Betas:
    """The noise schedule ``x_t = sqrt(a_t) * clean + sqrt(1 - a_t) * noise`` with ``a_t = prod (1 -
    beta_s)``.

    `diffusers` keeps betas and products as float32. They are rounded at the same places here, because ``1 -
    a_t`` depends on it near the data; all that follows from them is float64.

    Attributes:
        schedule: how betas run from `first` to `last`; cosine, Laplace and exponential schedules use neither.
        first: beta of the first training step.
        last: beta of the last training step.
        count: training steps, T.
        trained: the betas themselves, in place of all above but `count`, which is their number.
        zero_terminal_snr: whether they are rescaled such that nothing of the data is left at the last
            training step (Lin et al. 2024).

    Raises:
        ValueError: a number outside its range, or `trained` of another length than `count`.
    """

    schedule: BetaSchedule = BetaSchedule.LINEAR
    first: float = 0.0001
    last: float = 0.02
    count: int = 1000
    trained: tuple[float, ...] | None = None
    zero_terminal_snr: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "schedule", BetaSchedule(self.schedule))
        whole("count", self.count, low=1)
        for name in ("first", "last"):
            number(name, getattr(self, name), low=0.0, low_included=False, high=1.0)
        if self.trained is not None:
            for beta in self.trained:
                number("each of the trained betas", beta, low=0.0, high=1.0)
            if len(self.trained) != self.count:
                raise ValueError(
                    f"trained holds {len(self.trained)} betas, but count={self.count} training steps"
                )

    @cached_property
    def products(self) -> np.ndarray:
        """f64[T], ``a_t``: falling from nearly 1 to nearly 0."""
        betas = self._betas().astype(np.float32)
        if self.zero_terminal_snr:
            betas = _without_terminal_signal(betas)
        return _products(betas).astype(np.float64)

    @cached_property
    def sigmas(self) -> np.ndarray:
        """f64[T], noise relative to data, ``sqrt((1 - a_t) / a_t)``: rising.

        Where nothing of the data is left, a_T counts as 2^-24, the smallest number of float16.
        """
        products = self.products.astype(np.float32)
        if self.zero_terminal_snr:
            products[-1] = 2.0**-24
        return np.sqrt((np.float32(1.0) - products) / products).astype(np.float64)

    def _betas(self) -> np.ndarray:
        if self.trained is not None:
            return np.asarray(self.trained)
        if self.schedule in _SIGNALS:
            return _betas_of(_SIGNALS[self.schedule], self.count)
        first, last = self.first, self.last
        if self.schedule is BetaSchedule.SIGMOID:
            return first + (last - first) / (1 + np.exp(-np.linspace(-6, 6, self.count)))
        if self.schedule is BetaSchedule.SCALED_LINEAR:
            return _float32_line(first**0.5, last**0.5, self.count) ** 2
        return _float32_line(first, last, self.count)


def _float32_line(first: float, last: float, count: int) -> np.ndarray:
    """f32[count], from `first` to `last` as PyTorch makes it: from both ends, with a rounded step."""
    start, end, index = np.float32(first), np.float32(last), np.arange(count)
    step = np.float64((end - start) / np.float32(max(count - 1, 1)))
    return np.where(index < count / 2, start + step * index, end - step * (count - 1 - index)).astype(
        np.float32
    )


def _betas_of(signal: Callable[[float], float], count: int, most: float = 0.999) -> np.ndarray:
    """The betas whose products are ``signal(t)``, t from 0 to 1, none above `most`."""
    kept = np.array([signal(t / count) for t in range(count + 1)])
    return np.minimum(1 - kept[1:] / kept[:-1], most)


def _laplace(t: float) -> float:
    log_snr = -0.5 * math.copysign(1, 0.5 - t) * math.log(1 - 2 * abs(0.5 - t) + 1e-6)
    return math.sqrt(1 / (1 + math.exp(-log_snr)))


# How much of the data is left, by time from 0 to 1.
_SIGNALS: dict[BetaSchedule, Callable[[float], float]] = {
    BetaSchedule.COSINE: lambda t: math.cos((t + 0.008) / 1.008 * math.pi / 2) ** 2,
    BetaSchedule.EXPONENTIAL: lambda t: math.exp(-12.0 * t),
    BetaSchedule.LAPLACE: _laplace,
}


def _products(betas: np.ndarray) -> np.ndarray:
    kept = np.float32(1.0) - betas
    return np.cumprod(kept.astype(np.float64)).astype(np.float32)


def _without_terminal_signal(betas: np.ndarray) -> np.ndarray:
    """Rescaled in float32, as `diffusers` does it: near the data the rounding is a fair part of ``1 -
    a_t``."""
    roots = np.sqrt(_products(betas))
    first, last = roots[0], roots[-1]
    products = ((roots - last) * (first / (first - last))) ** 2
    return np.float32(1.0) - np.concatenate([products[:1], products[1:] / products[:-1]])
