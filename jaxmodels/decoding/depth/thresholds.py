"""Thresholds of exits that are not one number: by block, by position, by row. All numbers are data."""

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, number, shown, whole
from jaxmodels.models.depth import Walk
from jaxmodels.pytrees import register_dataclass


@runtime_checkable
class Thresholds(Protocol):
    """The confidence at which a token leaves, where it is not the same everywhere."""

    def behind(self, index: int, walk: Walk) -> Float[Array, "B S"]:
        """Of each token behind block `index`; of a shape that broadcasts to [B, S].

        Raises ValueError where they are for another model or batch.
        """


@dataclass(frozen=True, eq=False)
class PerBlock:
    """A threshold for each block, such as `thresholds_for_budget` finds them.

    Attributes:
        values: f32[L]; that of a block behind which nothing is asked is not looked at.

    Raises:
        ValueError: not such numbers, or one below 0; when traced, for another number of blocks.
    """

    values: jax.Array | np.ndarray

    def __post_init__(self) -> None:
        check_thresholds("PerBlock", self.values, "L")

    def behind(self, index: int, walk: Walk) -> Float[Array, ""]:
        if self.values.shape[0] != walk.blocks:
            raise ValueError(
                f"PerBlock: {self.values.shape[0]} thresholds are for as many blocks, but the model has "
                f"{walk.blocks}"
            )
        return jnp.asarray(self.values)[index]


@dataclass(frozen=True, eq=False)
class PerRow:
    """A threshold for each row of the batch.

    Attributes:
        values: f32[B].

    Raises:
        ValueError: not such numbers, or one below 0; when traced, for another number of rows.
    """

    values: jax.Array | np.ndarray

    def __post_init__(self) -> None:
        check_thresholds("PerRow", self.values, "B")

    def behind(self, index: int, walk: Walk) -> Float[Array, "B 1"]:
        rows = walk.window.positions.shape[0]
        if self.values.shape[0] != rows:
            raise ValueError(
                f"PerRow: {self.values.shape[0]} thresholds are for as many rows, but there are {rows}"
            )
        return jnp.asarray(self.values)[:, None]


@dataclass(frozen=True, eq=False)
class PerPosition:
    """A threshold for each position, counted from where an answer begins.

    Attributes:
        values: f32[P]; positions beyond them have the last, those in front of `start` the first.
        start: the position of the answer's first token, one for all rows or i32[B].

    Raises:
        ValueError: not such numbers, or one below 0; when traced, a `start` for another number of rows.
    """

    values: jax.Array | np.ndarray
    start: jax.Array | np.ndarray | int = 0

    def __post_init__(self) -> None:
        check_thresholds("PerPosition", self.values, "P")
        object.__setattr__(self, "start", _checked_start("PerPosition", self.start))

    def behind(self, index: int, walk: Walk) -> Float[Array, "B S"]:
        place = _since("PerPosition", self.start, walk)
        return jnp.asarray(self.values)[jnp.clip(place, 0, self.values.shape[0] - 1)]


@dataclass(frozen=True, kw_only=True, eq=False)
class Decaying:
    """``0.9 threshold + 0.1 threshold exp(-rate t / length)`` at the answer's token t.

    Errors made early are seen by all that follows, so that thresholds fall towards the end. Source: CALM
    (https://arxiv.org/abs/2207.07061), in the form of the released code of FREE; the paper's `rate` is 4.

    Attributes:
        threshold: at the answer's first token.
        rate: how fast it falls.
        length: tokens of the longest answer.
        start: see `PerPosition`.

    Raises:
        ValueError: a value outside its range; when traced, a `start` for another number of rows.
    """

    threshold: Array | float
    length: Array | int
    rate: Array | float = 4.0
    start: jax.Array | np.ndarray | int = 0

    def __post_init__(self) -> None:
        for name, low_included in (("threshold", True), ("rate", True), ("length", False)):
            value = getattr(self, name)
            if not is_traced(value):
                number(f"Decaying: {name}", value, low=0.0, low_included=low_included)
        object.__setattr__(self, "start", _checked_start("Decaying", self.start))

    def behind(self, index: int, walk: Walk) -> Float[Array, "B S"]:
        place = jnp.maximum(_since("Decaying", self.start, walk), 0)
        decay = jnp.exp(-jnp.asarray(self.rate, jnp.float32) * place / self.length)
        return jnp.asarray(self.threshold, jnp.float32) * (0.9 + 0.1 * decay)


def check_thresholds(kind: str, values: Any, axis: str) -> None:
    """Raises ValueError unless the values are finite numbers of at least 0 on one axis; infinity is allowed,
    which no confidence reaches."""
    if is_traced(values):
        return
    array = np.asarray(values)
    if array.ndim != 1 or not array.size or array.dtype.kind not in "fiu":
        raise ValueError(f"{kind}: thresholds must be numbers [{axis}], got {shown(values)}")
    if not (array >= 0).all():
        raise ValueError(f"{kind}: thresholds must be at least 0, got {shown(array[~(array >= 0)][0])}")


def _checked_start(kind: str, start: Any) -> Any:
    if is_traced(start) or np.ndim(start) == 1:
        return start
    return whole(f"{kind}: start", start)


def _since(kind: str, start: Any, walk: Walk) -> Int[Array, "B S"]:
    """How far each token is behind the start of its row's answer."""
    positions, start = walk.window.positions, jnp.asarray(start)
    if start.ndim and start.shape[0] != positions.shape[0]:
        raise ValueError(
            f"{kind}: start {list(start.shape)} is for as many rows, but there are {positions.shape[0]}"
        )
    return positions - (start[:, None] if start.ndim else start)


register_dataclass(PerBlock, ["values"], [])
register_dataclass(PerRow, ["values"], [])
register_dataclass(PerPosition, ["values", "start"], [])
register_dataclass(Decaying, ["threshold", "length", "rate", "start"], [])
