"""What a cache policy of masked generation is: how a block is scored, what is kept of the rest meanwhile."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.masked.canvas import Canvas, block_places
from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.masks import BlockCausal
from jaxmodels.layers.spec import Params
from jaxmodels.models.filling import filling_of
from jaxmodels.models.language_model import Cache, LanguageModel

State = TypeVar("State")


@struct.dataclass
class Kept:
    """What is kept between steps.

    Attributes:
        cache: the model's.
        refreshes: i32[B], passes in which nothing was scored: those that only bring the cache up to date.
        memory: whatever else the policy keeps; None for nothing.
        fresh: bool[B, N], the places of the canvas that the logits of this step speak of; None for all.
    """

    cache: Cache
    refreshes: jax.Array
    memory: Any = None
    fresh: Any = None


@dataclass(frozen=True, kw_only=True)
class Shown:
    """What a policy works with. Built anew inside each trace; never crosses a jit boundary.

    Attributes:
        config: the model.
        params: its parameters.
        canvas: prompts and answers, with each row's block in flight.
        length: places of a block, padded.
    """

    config: LanguageModel
    params: Params
    canvas: Canvas
    length: int

    @property
    def offset(self) -> int:
        """How many places in front of the one that they speak of the model's logits are."""
        filling = filling_of(self.config)
        return 0 if filling is None else filling.offset

    @property
    def places(self) -> Int[Array, "B L"]:
        """Those of each row's block."""
        return block_places(self.canvas, self.length)


class CanvasCache(Protocol):
    """How the block in flight is scored, and what is kept of the rest of the canvas meanwhile."""

    @property
    def scores_all(self) -> bool:
        """Whether a step scores every place of the block. Where it does not, the logits of the others are
        arbitrary numbers, and `Kept.fresh` says which they are."""

    def check(self, config: LanguageModel, length: int) -> None:
        """Raises ValueError, with the reason, where blocks of `length` of this model cannot be served."""

    def begin(self, shown: Shown, request: Request, cache: Cache, window: int) -> Kept:
        """What is kept before the first step. The cache is empty; prompts may be fed in windows of
        `window`."""

    def score(self, shown: Shown, kept: Kept) -> tuple[Float[Array, "B L V"], Kept]:
        """The logits that speak of the places of each row's block."""

    def advance(self, shown: Shown, kept: Kept, finished: Bool[Array, "B"]) -> Kept:
        """What is kept once the blocks of these rows are finished. The canvas still names those blocks.
        Rows that are done, or whose answer ends with the block, are not among them."""


@runtime_checkable
class Noting(Protocol):
    """A `CanvasCache` that tells the model in a block's next step what it made of the block in this one."""

    def note(self, shown: Shown, kept: Kept, logits: Float[Array, "B L V"]) -> Kept:
        """What is kept once the block was scored. `logits` are those that proposals are made from."""


def once_if_any(rows: Bool[Array, "B"], update: Callable[[State], State], state: State) -> State:
    """`update(state)` where any row needs it, else `state`.

    A loop of at most one round keeps the caches in place, which a `lax.cond` would not.
    """

    def once(carry: tuple[Array, State]) -> tuple[Array, State]:
        return jnp.zeros((), bool), update(carry[1])

    return lax.while_loop(lambda carry: carry[0], once, (rows.any(), state))[1]


def alignment_of(config: LanguageModel) -> int:
    """Where the blocks of a model may begin: at multiples of this place."""
    return config.mask.block if isinstance(config.mask, BlockCausal) else 1
