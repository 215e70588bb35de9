"""Thresholds that fall while a block is filled in."""

from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


class Schedule(Protocol):
    """A threshold by the time t, 0 in a block's first planned step and 1 in its last."""

    def __call__(self, time: Float[Array, "B"]) -> Float[Array, "B"]: ...


@dataclass(frozen=True, kw_only=True)
class Linear:
    """``high + (low - high) * t``."""

    high: float = 7.5
    low: float = 2.5

    def __post_init__(self) -> None:
        _check_bounds(self.high, self.low)

    def __call__(self, time: Float[Array, "B"]) -> Float[Array, "B"]:
        return self.high + (self.low - self.high) * time


@dataclass(frozen=True, kw_only=True)
class Cosine:
    """``low + (high - low) * (1 + cos(pi * t)) / 2``."""

    high: float = 7.5
    low: float = 2.5

    def __post_init__(self) -> None:
        _check_bounds(self.high, self.low)

    def __call__(self, time: Float[Array, "B"]) -> Float[Array, "B"]:
        return self.low + (self.high - self.low) * 0.5 * (1 + jnp.cos(jnp.pi * time))


@dataclass(frozen=True, kw_only=True)
class Exponential:
    """``low + (high - low) * exp(-rate * t)``, which stays above `low`."""

    high: float = 7.5
    low: float = 2.5
    rate: float = 4.0

    def __post_init__(self) -> None:
        _check_bounds(self.high, self.low)
        check_number("rate", self.rate, low=0.0)

    def __call__(self, time: Float[Array, "B"]) -> Float[Array, "B"]:
        return self.low + (self.high - self.low) * jnp.exp(-self.rate * time)


def _check_bounds(high: Array | float, low: Array | float) -> None:
    check_number("low", low, low=0.0)
    check_number("high", high, low=0.0)


register_dataclass(Linear, ["high", "low"], [])
register_dataclass(Cosine, ["high", "low"], [])
register_dataclass(Exponential, ["high", "low", "rate"], [])
