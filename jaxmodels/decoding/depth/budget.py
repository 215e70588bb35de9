"""A policy of depth that gives each position a number of blocks."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Pass, Unread, Walk, pass_where
from jaxmodels.pytrees import register_dataclass

UNREAD: tuple[Unread, ...] = ("propagate", "hold")


@dataclass(frozen=True, kw_only=True, eq=False)
class Budget:
    """A `Depth`: the token at position p is read in ``blocks[p]`` blocks, whatever it is.

    They are the first `warm_up` and the last of the model; those between are passed by. Where budgets never
    rise with the position, no token sees a block in which an earlier one was not read, so that nothing is
    missed with ``unread="hold"``. Source: Del Corro et al. 2023 (SkipDecode, https://arxiv.org/abs/2307.02628;
    no code is published).

    Attributes:
        blocks: i32[P], at least 1 each; more than the model has are all. Positions beyond P have the last.
        warm_up: blocks at the bottom that every token is read in.
        unread: what a block that passes a token by is shown, see `jaxmodels.models.depth`.

    Raises:
        ValueError: an option outside its range; when traced, more `warm_up` than the model has blocks.
    """

    blocks: jax.Array | np.ndarray
    warm_up: int = 1
    unread: Unread = "hold"

    def __post_init__(self) -> None:
        object.__setattr__(self, "warm_up", whole("warm_up", self.warm_up, low=1))
        check_unread(self.unread)
        if is_traced(self.blocks):
            return
        budget = np.asarray(self.blocks)
        if budget.ndim != 1 or not budget.size or not np.issubdtype(budget.dtype, np.integer):
            raise ValueError(f"blocks must be whole numbers [P], one per position, got {shown(self.blocks)}")
        if budget.min() < 1:
            raise ValueError(f"blocks must be at least 1 at every position, got {budget.min()}")

    def begin(self, walk: Walk) -> Walk:
        if self.warm_up > walk.blocks:
            raise ValueError(f"warm_up={self.warm_up} exceeds the model's {walk.blocks} layers")
        return walk

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.repeat:
            return stream, offered.hold(), walk
        positions = jnp.clip(walk.window.positions, 0, self.blocks.shape[0] - 1)
        budget = jnp.asarray(self.blocks)[positions]
        read = (offered.index < self.warm_up) | (offered.index >= walk.blocks + self.warm_up - budget)
        return pass_where(read, self.unread, offered, stream, walk)


def linear_budget(most: int, least: int, positions: int) -> np.ndarray:
    """i32[positions]: budgets that fall evenly from `most` to `least`, as in SkipDecode."""
    most, least = whole("most", most, low=1), whole("least", least, low=1)
    return np.linspace(most, least, whole("positions", positions, low=1)).round().astype(np.int32)


def check_unread(unread: Any) -> None:
    """Raises ValueError unless it is one of `UNREAD`."""
    if unread not in UNREAD:
        raise ValueError(f"unread must be one of {', '.join(map(repr, UNREAD))}, got {shown(unread)}")


register_dataclass(Budget, ["blocks"], ["warm_up", "unread"])
