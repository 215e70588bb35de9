"""A policy of depth that stops where the model is confident."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from flax import struct
from jax import lax
from jaxtyping import Array

from jaxmodels.checks import is_traced, number, shown, whole
from jaxmodels.decoding.depth.budget import check_unread
from jaxmodels.decoding.depth.confidence import Confidence, Following, Passed, Recalling
from jaxmodels.decoding.depth.thresholds import Thresholds
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Pass, Unread, Walk, chosen
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Notes:
    """What is noted within a window.

    Attributes:
        running: bool[B, S], the tokens that have not left.
        found: what a `Following` confidence has found.
    """

    running: jax.Array
    found: Any = None


@dataclass(frozen=True, kw_only=True)
class UntilConfident:
    """A `Depth`: at least `min_layers` blocks, then until a token's confidence reaches `threshold`.

    Each token leaves by itself, and is then passed by with the stream of its exit. A block that no real token
    needs is one `lax.cond` around what it reads; it is still written, by default with the streams of the
    exits.

    Attributes:
        confidence: how sure the model is behind a block.
        threshold: a number, or `Thresholds` by block, position or row.
        min_layers: blocks that every token is read in.
        asked: the blocks behind which the confidence is asked for; None for all from block ``min_layers - 1``
            on but the last. Few are cheap: a test costs, and blocks between two are read on without one.
        unread: what a block is shown of tokens that have left, see `jaxmodels.models.depth`. With "hold", of
            rows in which all have.

    Raises:
        ValueError: an option outside its range; when traced, blocks that the model does not have, or a
            confidence or thresholds of another model.
    """

    confidence: Confidence | Recalling
    threshold: Array | float | Thresholds
    min_layers: int = 1
    asked: tuple[int, ...] | None = None
    unread: Unread = "propagate"

    def __post_init__(self) -> None:
        object.__setattr__(self, "min_layers", whole("min_layers", self.min_layers, low=1))
        if not isinstance(self.confidence, Recalling):
            check_policy("confidence", self.confidence, "__call__", "MaxProbability()")
        check_threshold(self.threshold)
        check_unread(self.unread)
        if self.asked is not None:
            object.__setattr__(self, "asked", check_asked(self.asked, self.min_layers))

    def state_spec(self, batch: int, d_model: int) -> Any:
        """That of the confidence, if it keeps one."""
        confidence = self.confidence
        return confidence.state_spec(batch, d_model) if isinstance(confidence, Recalling) else None

    def begin(self, walk: Walk) -> Walk:
        if self.min_layers > walk.blocks:
            raise ValueError(f"min_layers={self.min_layers} exceeds the model's {walk.blocks} layers")
        if self.asked is not None and self.asked[-1] + 1 >= walk.blocks:
            raise ValueError(
                f"asked: there is no exit behind block {self.asked[-1]} of a model of {walk.blocks} blocks; "
                f"the last is behind block {walk.blocks - 2}"
            )
        found = self.confidence.begin(walk) if isinstance(self.confidence, Following) else None
        return replace(walk, notes=Notes(running=walk.window.is_valid, found=found))

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.repeat:
            return stream, offered.hold(), walk
        notes: Notes = walk.notes
        rows = notes.running.any(1) if self.unread == "hold" else None
        read, written = offered.write(stream, rows)
        exits = self.exits(walk.blocks)
        asks, may_have_left = offered.index in exits, any(exit < offered.index for exit in exits)
        recalls = isinstance(self.confidence, Recalling)

        def go_on(before: Stream) -> tuple[Stream, Notes]:
            after = read(before)
            if may_have_left:
                after = chosen(notes.running, after, before)
            if not asks or recalls:
                return after, notes
            return after, self._ask(self.passed(offered.index, before, after, walk), notes)

        if may_have_left:
            after, new = lax.cond(notes.running.any(), go_on, lambda before: (before, notes), stream)
        else:
            after, new = go_on(stream)
        if asks and isinstance(self.confidence, Recalling):
            passed = self.passed(offered.index, stream, after, walk)
            confidence, walk = self.confidence.recall(passed, walk)
            new = replace(new, running=new.running & (confidence < passed.threshold))
        return after, written, replace(walk, depth=walk.depth + notes.running, notes=new)

    def exits(self, blocks: int) -> tuple[int, ...]:
        """The blocks behind which tokens may leave, in a model of so many."""
        return tuple(range(self.min_layers - 1, blocks - 1)) if self.asked is None else self.asked

    def passed(self, index: int, before: Stream, after: Stream, walk: Walk) -> Passed:
        """Block `index` as the confidence sees it."""
        threshold: Any = self.threshold
        return Passed(
            index=index,
            blocks=walk.blocks,
            before=before,
            after=after,
            head=walk.head,
            head_of=walk.head_of,
            threshold=threshold.behind(index, walk) if isinstance(threshold, Thresholds) else threshold,
        )

    def _ask(self, passed: Passed, notes: Notes) -> Notes:
        """The tokens that still run behind a block."""
        confidence: Any = self.confidence
        follows = isinstance(confidence, Following)
        sure, found = confidence.follow(passed, notes.found) if follows else (confidence(passed), None)
        return Notes(running=notes.running & (sure < passed.threshold), found=found)


def check_threshold(threshold: Any) -> None:
    """Raises ValueError unless a threshold is a number of at least 0 or `Thresholds`."""
    if not is_traced(threshold) and not isinstance(threshold, Thresholds):
        number("threshold", threshold, low=0.0)


def check_asked(asked: Any, min_layers: int) -> tuple[int, ...]:
    """Numbers of blocks behind which tokens may leave, as a tuple.

    Raises ValueError where they do not rise, or one is among blocks that every token is read on in.
    """
    if not isinstance(asked, list | tuple | range) or not asked:
        raise ValueError(f"asked must be numbers of blocks, such as (2, 5, 8), got {shown(asked)}")
    blocks = tuple(whole(f"asked[{i}]", block) for i, block in enumerate(asked))
    if list(blocks) != sorted(set(blocks)):
        raise ValueError(f"asked must rise, got {list(blocks)}")
    if blocks[0] + 1 < min_layers:
        raise ValueError(
            f"asked: behind block {blocks[0]} no token may leave, as min_layers={min_layers} are read first"
        )
    return blocks


register_dataclass(UntilConfident, ["confidence", "threshold"], ["min_layers", "asked", "unread"])
