"""The mask of a tree that a head grows level by level: earlier levels are in its history already."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxmodels.layers.masks import Answer, Places
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class Branches:
    """A token of the newest level sees all pairs in front of the tree, itself and its ancestors.

    Two levels of two behind one other pair, each of the second level a child of the first token::

        x   x .   x .
        x   x .   . x

    It goes by slots: a history that keeps its pairs in order, as `History` does, has those of earlier levels
    in the slots in front of the window.

    Attributes:
        seen: bool[B, S, N], whether a token of the window sees number n of the tree, by the levels' order.
        before: i32[], tokens of the levels before the window.
    """

    seen: Bool[Array, "B S N"]
    before: Int[Array, ""]

    by_position = False

    def sees(self, queries: Places, keys: Places) -> Answer:
        number = keys.index + self.before
        rows = jnp.arange(self.seen.shape[0])[:, None, None]
        within = self.seen.at[rows, queries.index, number].get(mode="fill", fill_value=False)
        return (number < 0) | ((number >= 0) & within)

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        return np.True_

    def check(self, size: int, batch: int | None) -> None:
        """A head makes it for its own windows."""


register_dataclass(Branches, ["seen", "before"], [])
