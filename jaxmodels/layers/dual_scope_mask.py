"""The mask of long videos: frames near by, and some of the whole."""

from dataclasses import dataclass
from typing import Any

from jaxmodels.checks import whole
from jaxmodels.layers.masks import Answer, Places
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class DualScope:
    """Positions are cut into frames; a token sees its own frame, those near it on both sides, and every so
    many'th frame of the whole sequence.

    The dual-scope attention of Video-Infinity (https://arxiv.org/abs/2406.16260), with which a model that was
    trained on short videos makes long ones. There the tokens of different frames are shared by devices, which
    a window's are under a mesh with a "sequence" axis.

    With ``tokens=1, near=1, every=3``::

        x x . x . .
        x x x x . .
        x x x x . .
        x . x x x .
        x . . x x x
        x . . x x x

    Attributes:
        tokens: of a frame.
        near: frames on each side that are seen whole.
        every: frame 0 and each further one behind so many are seen by all.

    Raises:
        ValueError: a size is not a whole number, or `tokens` or `every` is below 1.
    """

    tokens: int
    near: int
    every: int

    by_position = True

    def __post_init__(self) -> None:
        whole("DualScope: tokens", self.tokens, low=1)
        whole("DualScope: near", self.near)
        whole("DualScope: every", self.every, low=1)

    def sees(self, queries: Places, keys: Places) -> Answer:
        return self.within_reach(queries.positions, queries.positions + 1, keys)

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        frame = keys.positions // self.tokens
        first, last = low // self.tokens - self.near, (high - 1) // self.tokens + self.near
        return ((frame >= first) & (frame <= last)) | (frame % self.every == 0)

    def check(self, size: int, batch: int | None) -> None:
        """It fits every window."""


register_dataclass(DualScope, [], ["tokens", "near", "every"])
