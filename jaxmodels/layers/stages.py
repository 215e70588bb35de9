"""Masks of sequences that are made in stages of different sizes, such as the scales of an image."""

import itertools
from dataclasses import dataclass
from typing import Any

import jax

from jaxmodels.checks import whole
from jaxmodels.layers.masks import Answer, Places


@dataclass(frozen=True)
class StageCausal:
    """Positions are cut into stages of `sizes`; a token sees its own stage whole, and all earlier ones.

    With ``sizes=(1, 2)``::

        x . .
        x x x
        x x x

    Positions behind the last stage count as its own.

    Raises:
        ValueError: there is no stage, or a size is not a whole number of at least 1.
    """

    sizes: tuple[int, ...]

    by_position = True

    def __post_init__(self) -> None:
        check_sizes("StageCausal", self.sizes)

    def sees(self, queries: Places, keys: Places) -> Answer:
        return stage_of(self.sizes, keys.positions) <= stage_of(self.sizes, queries.positions)

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        return stage_of(self.sizes, keys.positions) <= stage_of(self.sizes, high - 1)

    def check(self, size: int, batch: int | None) -> None:
        """It fits every window."""


@dataclass(frozen=True)
class StageAlone:
    """Positions are cut into stages of `sizes`; a token sees those of its own stage, on both sides.

    With ``sizes=(1, 2)``::

        x . .
        . x x
        . x x

    Positions behind the last stage count as its own.

    Raises:
        ValueError: there is no stage, or a size is not a whole number of at least 1.
    """

    sizes: tuple[int, ...]

    by_position = True

    def __post_init__(self) -> None:
        check_sizes("StageAlone", self.sizes)

    def sees(self, queries: Places, keys: Places) -> Answer:
        return stage_of(self.sizes, keys.positions) == stage_of(self.sizes, queries.positions)

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        stage = stage_of(self.sizes, keys.positions)
        return (stage >= stage_of(self.sizes, low)) & (stage <= stage_of(self.sizes, high - 1))

    def check(self, size: int, batch: int | None) -> None:
        """It fits every window."""


def stage_of(sizes: tuple[int, ...], positions: Any) -> Any:
    """The number of the stage that each position lies in."""
    ends = itertools.accumulate(sizes[:-1])
    return sum(((positions >= end) * 1 for end in ends), start=positions * 0)


def check_sizes(name: str, sizes: tuple[int, ...]) -> None:
    """Raises ValueError unless `sizes` are those of at least one stage."""
    if not sizes:
        raise ValueError(f"{name}: sizes must be those of at least one stage, got {sizes}")
    for size in sizes:
        whole(f"{name}: a stage's size", size, low=1)


jax.tree_util.register_static(StageCausal)
jax.tree_util.register_static(StageAlone)
