"""How much of a block is unknown behind each step, and how strongly chance has a say, by progress."""

from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


class Schedule(Protocol):
    """The share of a block's places that are unknown behind a step. Implementations are pytrees."""

    def __call__(self, done: Float[Array, "B"]) -> Float[Array, "B"]:
        """`done` is the share of the planned steps that are taken then; the result falls from 1 to 0."""


@dataclass(frozen=True)
class Cosine:
    """``cos(pi / 2 * done)``: few places first, many in the end (https://arxiv.org/abs/2202.04200)."""

    def __call__(self, done: Float[Array, "B"]) -> Float[Array, "B"]:
        return jnp.cos(jnp.pi / 2 * done)


@dataclass(frozen=True)
class Power:
    """``1 - done ** exponent``: as many places in every step with the exponent 1, ever more above it.

    Raises:
        ValueError: `exponent` is not positive.
    """

    exponent: float = 1.0

    def __post_init__(self) -> None:
        check_number("exponent", self.exponent, low=0.0, low_included=False)

    def __call__(self, done: Float[Array, "B"]) -> Float[Array, "B"]:
        return 1 - done**self.exponent


class Annealing(Protocol):
    """A temperature of each step. Implementations are pytrees."""

    def __call__(self, step: Int[Array, "B"], steps: Int[Array, "B"]) -> Float[Array, "B"]:
        """That of the step numbered `step`, from 0, of `steps`."""


@dataclass(frozen=True)
class ToZero:
    """``start * (1 - (step + 1) / steps)``: 0 in the last step, below `start` in the first.

    Raises:
        ValueError: `start` is negative.
    """

    start: float

    def __post_init__(self) -> None:
        check_number("start", self.start, low=0.0)

    def __call__(self, step: Int[Array, "B"], steps: Int[Array, "B"]) -> Float[Array, "B"]:
        return self.start * jnp.maximum(1 - (step + 1) / steps, 0.0)


@dataclass(frozen=True)
class FromTo:
    """Evenly from `first` in the first step to `last` in the last one.

    Raises:
        ValueError: a temperature is negative.
    """

    first: float
    last: float = 0.0

    def __post_init__(self) -> None:
        check_number("first", self.first, low=0.0)
        check_number("last", self.last, low=0.0)

    def __call__(self, step: Int[Array, "B"], steps: Int[Array, "B"]) -> Float[Array, "B"]:
        return self.first + (self.last - self.first) * jnp.minimum(step / jnp.maximum(steps - 1, 1), 1.0)


@dataclass(frozen=True)
class Towards:
    """Evenly from `first` in the first step towards `last`, which a step behind the last one would have.

    Raises:
        ValueError: a temperature is negative.
    """

    first: float
    last: float

    def __post_init__(self) -> None:
        check_number("first", self.first, low=0.0)
        check_number("last", self.last, low=0.0)

    def __call__(self, step: Int[Array, "B"], steps: Int[Array, "B"]) -> Float[Array, "B"]:
        return self.last + (self.first - self.last) * jnp.maximum(steps - step, 0) / jnp.maximum(steps, 1)


for made, data in (
    (Cosine, []),
    (Power, ["exponent"]),
    (ToZero, ["start"]),
    (FromTo, ["first", "last"]),
    (Towards, ["first", "last"]),
):
    register_dataclass(made, data, [])

COSINE = Cosine()
