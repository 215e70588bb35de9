"""How deep a window is read: a policy between a decoder's blocks.

Every block is written for every window, so that the history of each is complete whatever the policy skips.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.window import Window
from jaxmodels.models.block import Stream


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A window's way through the blocks. Built anew inside each trace; never crosses a jit boundary.

    Attributes:
        window: what is read.
        blocks: how many there are.
        head: float32[B, S, V] logits of a stream, as if the decoder ended there.
        depth: i32, blocks read so far.
        stopped: bool, whether the policy has had enough.
    """

    window: Window
    blocks: int
    head: Callable[[Stream], Float[Array, "B S V"]]
    depth: jax.Array
    stopped: jax.Array

    @classmethod
    def begin(cls, window: Window, blocks: int, head: Callable[[Stream], Float[Array, "B S V"]]) -> "Walk":
        """In front of the first block."""
        depth, stopped = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return cls(window=window, blocks=blocks, head=head, depth=depth, stopped=stopped)


class Depth(Protocol):
    """Decides block by block whether the window is read through it. Implementations may be pytrees."""

    def read(
        self, index: int, read: Callable[[Stream], Stream], stream: Stream, walk: Walk
    ) -> tuple[Stream, Walk]:
        """The stream behind block `index`, which is ``read(stream)`` or, where it is skipped, `stream`."""


@dataclass(frozen=True)
class AllLayers:
    """Every block is read."""

    def read(
        self, index: int, read: Callable[[Stream], Stream], stream: Stream, walk: Walk
    ) -> tuple[Stream, Walk]:
        return read(stream), replace(walk, depth=walk.depth + 1)


ALL_LAYERS = AllLayers()
