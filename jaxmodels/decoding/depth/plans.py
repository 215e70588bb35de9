"""Policies of depth that say beforehand how often each block is passed: skip, run or repeat.

The verdicts are those of Dr.LLM (https://arxiv.org/abs/2510.12773), whose router makes one plan per prompt.
Each pass through a block has a history of its own, so that a plan is the model with its blocks left out and
put in twice: cached decoding is that model's.
"""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.decoding.depth.budget import check_unread
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Pass, Unread, Walk, pass_where
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class Plan:
    """A `Depth` that is one plan for all tokens, known when the program is compiled: what is left out costs
    nothing.

    Attributes:
        passes: how often each block is passed.
        unread: what a block that is left out is shown, see `jaxmodels.models.depth`.

    Raises:
        ValueError: a number below 0; when traced, a plan for another number of blocks.
    """

    passes: tuple[int, ...]
    unread: Unread = "hold"

    def __post_init__(self) -> None:
        if not isinstance(self.passes, list | tuple | np.ndarray):
            raise ValueError(f"passes must be whole numbers, one per block, got {shown(self.passes)}")
        passes = tuple(whole(f"passes[{i}]", times, low=0) for i, times in enumerate(self.passes))
        object.__setattr__(self, "passes", passes)
        check_unread(self.unread)

    def most_passes(self, blocks: int) -> tuple[int, ...]:
        """Those of the plan, and 1 for what is left out."""
        _check_blocks(len(self.passes), blocks)
        return tuple(max(1, times) for times in self.passes)

    def begin(self, walk: Walk) -> Walk:
        _check_blocks(len(self.passes), walk.blocks)
        return walk

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.repeat >= self.passes[offered.index]:
            is_held = offered.repeat or self.unread == "hold"
            return stream, offered.hold() if is_held else offered.write(stream)[1], walk
        read, written = offered.write(stream)
        return read(stream), written, replace(walk, depth=walk.depth + walk.window.is_valid)


@dataclass(frozen=True, eq=False)
class RowPlans:
    """A `Depth` that is a plan per row, as data: one program for all plans. A pass that no row needs is not
    read.

    Attributes:
        passes: i32[B, L], how often each row passes each block; or i32[L], for all rows.
        most: the most that any block is passed: so many histories each block has.
        unread: what a pass that is left out is shown in a row, see `jaxmodels.models.depth`.

    Raises:
        ValueError: an option outside its range; when traced, plans for another number of blocks or rows.
    """

    passes: jax.Array | np.ndarray
    most: int = 2
    unread: Unread = "hold"

    def __post_init__(self) -> None:
        object.__setattr__(self, "most", whole("most", self.most, low=1))
        check_unread(self.unread)
        if is_traced(self.passes):
            return
        passes = np.asarray(self.passes)
        if passes.ndim not in (1, 2) or not np.issubdtype(passes.dtype, np.integer):
            raise ValueError(f"passes must be whole numbers [B, L] or [L], got {shown(self.passes)}")
        if passes.size and not 0 <= passes.min() <= passes.max() <= self.most:
            raise ValueError(
                f"passes must lie from 0 to most={self.most}, got {passes.min()} to {passes.max()}"
            )

    def most_passes(self, blocks: int) -> tuple[int, ...]:
        """`most` for every block."""
        _check_blocks(self.passes.shape[-1], blocks)
        return (self.most,) * blocks

    def begin(self, walk: Walk) -> Walk:
        _check_blocks(self.passes.shape[-1], walk.blocks)
        rows = walk.window.positions.shape[0]
        if self.passes.ndim == 2 and self.passes.shape[0] not in (1, rows):
            raise ValueError(f"passes {list(self.passes.shape)} are plans for other rows: there are {rows}")
        return walk

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        times = jnp.atleast_2d(self.passes)[:, offered.index, None]
        tokens = jnp.broadcast_to(times > offered.repeat, walk.window.positions.shape)
        return pass_where(tokens, self.unread, offered, stream, walk)


def _check_blocks(planned: int, blocks: int) -> None:
    if planned != blocks:
        raise ValueError(f"passes: the plan is for {planned} blocks, but the model has {blocks}")


register_dataclass(Plan, [], ["passes", "unread"])
register_dataclass(RowPlans, ["passes"], ["most", "unread"])
