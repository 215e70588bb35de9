"""The mask of a canvas: a window that is refined as a whole, behind a history that was read in order."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Array, Int

from jaxmodels.layers.mask_checks import check_lengths
from jaxmodels.layers.masks import Answer, Mask, Places, by_row
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class OnCanvas:
    """A token sees the whole window and, of the history, what the window's first token sees of it.

    In a layer with a sliding window of 3, behind four tokens of history::

        history  window
        . . x x   x x x
        . . x x   x x x
        . . x x   x x x

    A layer's sliding window bounds what is seen of the history and nothing inside of the window, which may be
    longer (DiffusionGemma).

    Attributes:
        start: the position of the window's first token: one for all rows, or i32[B], one for each.
        before: how many positions ahead of `start` are seen; None: all.
    """

    start: int | Int[Array, "B"]
    before: int | None = None

    by_position = True

    def sees(self, queries: Places, keys: Places) -> Answer:
        return self.within_reach(None, None, keys)

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        if self.before is None:
            return np.True_
        return keys.positions >= by_row(self.start, keys) - self.before

    def check(self, size: int, batch: int | None) -> None:
        check_lengths("OnCanvas", self.start, batch)

    def narrowed(self, side: int) -> Mask:
        """The mask in a layer whose tokens see `side` positions beside their own."""
        return replace(self, before=side if self.before is None else min(self.before, side))


register_dataclass(OnCanvas, ["start"], ["before"])
