"""How deep a window is read: a policy between a decoder's blocks.

A block is passed in two halves, see `DecoderBlock`: `write` is what its history depends on, `read` the rest.
A policy may leave a block unread, read it for some tokens only, or pass through it again. What becomes of the
history of a block that is not read is the policy's to say:

* propagate: the block is written with the stream that passes it by, so that its history is complete;
* hold: nothing of the window enters its history. Attention's slots stay empty there, and later tokens do not
  see the window in this block; a recurrent state stays where it was.
"""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import Window
from jaxmodels.models.block import DecoderBlock, HalvedBlock, Stream, Weighing
from jaxmodels.models.chosen_tokens import ShownTokens, choose
from jaxmodels.models.keeping import Keeping

Unread = Literal["propagate", "hold"]


@dataclass(frozen=True, kw_only=True)
class Walk:
    """A window's way through the blocks. Built anew inside each trace; never crosses a jit boundary.

    Attributes:
        window: what is read.
        blocks: how many there are.
        d_model: the width of the stream.
        head: float32[B, S, V] logits of a stream, as if the decoder ended there.
        head_of: float32[B, S, N], of these the logits of some tokens, i32[N] or i32[B, S, N], alone.
        depth: i32[B, S], passes through blocks that each token was read in so far.
        notes: the policy's own, for this window.
        state: the policy's own behind each token of the window, see `Remembering`; in front of the first
            block, that in front of the window.
    """

    window: Window
    blocks: int
    d_model: int
    head: Callable[[Stream], Float[Array, "B S V"]]
    head_of: Callable[[Stream, Int[Array, "*BS N"]], Float[Array, "B S N"]]
    depth: jax.Array
    notes: Any = None
    state: Any = None


@struct.dataclass
class Held:
    """Stands for a pass whose block is shown nothing of a window: its state, as it was."""

    state: Any


@struct.dataclass
class Shown:
    """What `commit` needs of a pass whose block is shown the window in some rows.

    Attributes:
        pending: the block's.
        rows: bool[B], the rows that are shown it.
    """

    pending: Any
    rows: jax.Array


@dataclass(frozen=True, kw_only=True)
class Pass:
    """One pass of a window through a block, as it is offered to a policy.

    Attributes:
        index: the block's number.
        repeat: 0 for the first pass, 1 for the second, and so on. Each has a history of its own.
        block, params, state, window: what `write` and `read` take beside the stream.
    """

    index: int
    repeat: int
    block: DecoderBlock
    params: Params
    state: Any
    window: Window

    def write(
        self, stream: Stream, rows: Bool[Array, "B"] | None = None
    ) -> tuple[Callable[[Stream], Stream], Any]:
        """Shows the block the window, in all rows or in some: (read, written).

        `read` gives the stream behind the block for the stream in front of it; it may stand in a `lax.cond`.
        """
        held, pending = self._show(stream, rows)

        def read(stream: Stream) -> Stream:
            return self.block.read(self.params, stream, held, pending, self.window)

        return read, pending if rows is None else Shown(pending=pending, rows=rows)

    def write_halves(
        self, stream: Stream, rows: Bool[Array, "B"] | None = None
    ) -> tuple[Callable[[Stream], Stream], Callable[[Stream], Stream], Any]:
        """`write`, with `read` in two: (read_mixer, read_ffn, written).

        Raises ValueError where the block's mixer and feed-forward do not follow each other.
        """
        block, (held, pending) = halved(self.block, self.index), self._show(stream, rows)

        def read_mixer(stream: Stream) -> Stream:
            return block.read_mixer(self.params, stream, held, pending, self.window)

        def read_ffn(stream: Stream) -> Stream:
            return block.read_ffn(self.params, stream, self.window)

        return read_mixer, read_ffn, pending if rows is None else Shown(pending=pending, rows=rows)

    def write_tokens(
        self, stream: Stream, tokens: Bool[Array, "B S"]
    ) -> tuple[Callable[[Stream], Stream], Any]:
        """Shows the block some real tokens of the window, and nothing of the others: (read, written).

        What `read` gives for the others is meaningless.
        """
        chosen = choose(self.window, tokens)
        held, pending = self.block.write(self.params, chosen.packed(stream), self.state, chosen.window)

        def read(stream: Stream) -> Stream:
            return self.block.read(self.params, stream, held, pending, chosen.window)

        return chosen.around(read), ShownTokens(pending=pending, tokens=tokens, places=chosen.places)

    def _show(self, stream: Stream, rows: Bool[Array, "B"] | None) -> tuple[Any, Any]:
        shown = self.window
        if rows is not None:
            shown = replace(shown, valid=jnp.where(rows, shown.valid, 0))
        return self.block.write(self.params, stream, self.state, shown)

    def hold(self) -> Held:
        """Shows the block nothing: what stands for `written`."""
        return Held(state=self.state)


def halved(block: DecoderBlock, index: int) -> HalvedBlock:
    """The block. Raises ValueError where its mixer and feed-forward do not follow each other."""
    if not isinstance(block, HalvedBlock):
        raise ValueError(
            f"depth: block {index} is a {type(block).__name__}, whose mixer and feed-forward are not read "
            "one after the other, so that neither can be left out alone"
        )
    return block


class Depth(Protocol):
    """Decides pass by pass whether a window is read. Implementations may be pytrees, with parameters."""

    def begin(self, walk: Walk) -> Walk:
        """The walk in front of the first block.

        Raises ValueError where the policy does not fit the model.
        """

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        """The stream behind a pass, what was written (`Pass.write` or `Pass.hold`), and the walk.

        Called for every pass in order. The stream is `read(stream)`, or for tokens that are not read,
        `stream` as it was.
        """


@runtime_checkable
class Repeating(Protocol):
    """A `Depth` that may pass through blocks more than once."""

    def most_passes(self, blocks: int) -> tuple[int, ...]:
        """The most passes through each of a model's blocks, at least 1.

        Raises ValueError where it is made for another number of blocks.
        """


@runtime_checkable
class Remembering(Protocol):
    """A `Depth` that keeps a state between windows.

    While the window is read, `Walk.state` becomes that behind each of its tokens, with leaves [B, S, ...];
    `commit` keeps that behind the last token that becomes history.
    """

    def state_spec(self, batch: int, d_model: int) -> Any:
        """The state in front of the first token: a tree of `Buffer`, each [B, ...]; None where it keeps none
        after all."""


@runtime_checkable
class ReadingPrompts(Protocol):
    """A `Depth` by which prompts are read, too: what it finds of a prompt holds for what follows, or the
    model was trained with it and knows no other way."""

    @property
    def reads_prompts(self) -> bool: ...


def kept_by(depth: Depth, batch: int, d_model: int) -> Any:
    """The state in front of the first token of a policy that keeps one; None of others."""
    return depth.state_spec(batch, d_model) if isinstance(depth, Remembering) else None


def check_cache(
    depth: Depth, repeats: tuple[tuple[Any, ...], ...], memory: Any, blocks: int, d_model: int
) -> None:
    """Raises ValueError where a cache has no room for the passes or the state of a policy."""
    if isinstance(depth, Repeating):
        for i, most in enumerate(depth.most_passes(blocks)):
            room = 1 + (len(repeats[i]) if repeats else 0)
            if most > room:
                raise ValueError(
                    f"depth: {type(depth).__name__} passes block {i} up to {most} times, but the cache has "
                    f"a history for {room}; make it with init_cache(..., depth=...)"
                )
    if memory is None and kept_by(depth, 1, d_model) is not None:
        raise ValueError(
            f"depth: {type(depth).__name__} keeps a state, but the cache has none; make it with "
            "init_cache(..., depth=...)"
        )


@jax.tree_util.register_static
@dataclass(frozen=True)
class AllLayers:
    """Every block is read, once."""

    def begin(self, walk: Walk) -> Walk:
        return walk

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.repeat:
            return stream, offered.hold(), walk
        read, written = offered.write(stream)
        return read(stream), written, replace(walk, depth=walk.depth + 1)


ALL_LAYERS = AllLayers()


def pass_blocks(
    depth: Depth,
    blocks: Sequence[DecoderBlock],
    params: Sequence[Params],
    states: Sequence[tuple[Any, ...]],
    stream: Stream,
    walk: Walk,
    taps: Collection[str],
    kept: tuple[Any, ...] = (),
) -> tuple[Stream, Walk, list[tuple[Any, ...]], dict[str, Float[Array, "B S D"]], tuple[Any, ...]]:
    """Takes a window through all blocks in order, as `depth` says.

    Args:
        params: what each block computes with.
        states: of each block those of its passes.
        stream, walk: in front of the first block, as `depth.begin` left it.
        taps: what is wanted of the streams "blocks/i" behind the blocks, and of "blocks/i/attention_weights".
        kept: for each block what its feed-forward keeps, or None; empty where none keeps anything.

    Returns:
        (stream, walk, what was written in each pass of each block, the streams wanted by name, what is kept).
    """
    written, seen, keeping = [], {}, Keeping(blocks=blocks, params=params, window=walk.window, kept=kept)
    for i, block in enumerate(blocks):
        of_passes, before = [], stream
        keeping, stream = keeping.enter(i, stream)
        for repeat, state in enumerate(states[i]):
            offered = Pass(
                index=i, repeat=repeat, block=block, params=params[i], state=state, window=walk.window
            )
            stream, what, walk = depth.through(offered, stream, walk)
            of_passes.append(what)
        keeping, stream = keeping.leave(i, stream)
        written.append(tuple(of_passes))
        if f"blocks/{i}" in taps:
            seen[f"blocks/{i}"] = stream.hidden
        if f"blocks/{i}/attention_weights" in taps:
            seen[f"blocks/{i}/attention_weights"] = _weights(block, params[i], before, of_passes, walk.window)
    return stream, walk, written, seen, keeping.kept


def _weights(
    block: DecoderBlock, params: Params, stream: Stream, written: Sequence[Any], window: Window
) -> Float[Array, "B S T"]:
    """What the tokens weigh the slots of a block's cache with, in the one pass through it."""
    unlike = Held | Shown | ShownTokens
    if not isinstance(block, Weighing) or len(written) > 1 or isinstance(written[0], unlike):
        raise ValueError(
            f"taps: {type(block).__name__} has no attention_weights, or is not read once for the whole window"
        )
    return block.attention_weights(params, stream, written[0], window)


def chosen(tokens: Bool[Array, "B S"], after: Stream, before: Stream) -> Stream:
    """The stream `after` a block for some tokens, `before` it for the others."""

    def pick(new: Array, old: Array) -> Array:
        return jnp.where(tokens[:, :, None], new, old)

    logits = after.router_logits
    if logits is not None and before.router_logits is not None:
        logits = pick(logits, before.router_logits)
    return replace(after, hidden=pick(after.hidden, before.hidden), router_logits=logits)


def read_where(tokens: Bool[Array, "B S"], read: Callable[[Stream], Stream], stream: Stream) -> Stream:
    """`read(stream)` for some tokens and `stream` for the others; where there are none, nothing runs."""
    return lax.cond(
        tokens.any(), lambda before: chosen(tokens, read(before), before), lambda before: before, stream
    )


def pass_where(
    tokens: Bool[Array, "B S"], unread: Unread, offered: Pass, stream: Stream, walk: Walk
) -> tuple[Stream, Any, Walk]:
    """What `Depth.through` gives where a policy reads some tokens: see `read_where`.

    With "hold", the block is shown the window in the rows in which it is read for some token.
    """
    tokens = tokens & walk.window.is_valid
    read, written = offered.write(stream, None if unread == "propagate" else tokens.any(1))
    return read_where(tokens, read, stream), written, replace(walk, depth=walk.depth + tokens)


def settled(
    block: DecoderBlock, written: Any, n: Int[Array, "B"] | None, path: Int[Array, "B P"] | None
) -> Any:
    """The state of a pass once the first n window tokens (of `path`, if given) are history; None: all valid.

    A path has an `n`.
    """
    if isinstance(written, Held):
        return written.state
    if isinstance(written, ShownTokens):
        return block.commit(written.pending, *written.taken(n, path))
    if not isinstance(written, Shown):
        return block.commit(written, n, path)
    return block.commit(written.pending, None if n is None else jnp.where(written.rows, n, 0), path)


def remembered(before: Any, behind: Any, taken: Int[Array, "B"], path: Int[Array, "B P"] | None) -> Any:
    """A policy's state behind the last of `taken` tokens (of `path`, if given); that before where it is 0, or
    where the window was read by a policy that keeps none."""
    if behind is None:
        return before
    last = jnp.maximum(taken - 1, 0)[:, None]
    last = last if path is None else jnp.take_along_axis(path, last, axis=1)

    def pick(old: Array, new: Array) -> Array:
        shape = (-1, *(1,) * (old.ndim - 1))
        new = jnp.take_along_axis(new, last.reshape(-1, 1, *(1,) * (old.ndim - 1)), axis=1)[:, 0]
        return jnp.where((taken > 0).reshape(shape), new, old)

    return jax.tree.map(pick, before, behind)
