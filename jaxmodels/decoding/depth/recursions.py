"""Policies of depth that pass tokens through one block again and again: Mixture-of-Recursions."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.samplers import check_number
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Pass, Walk, read_where
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class ExpertChoiceRecursions:
    """A `Depth`: block `shared` is passed up to R times. A token is in recursion r where it was in all
    earlier ones and its gate there, ``alpha * sigmoid(router[r] @ h)``, is more than ``alpha * threshold``.
    Its stream h then becomes ``h + gate * block(h)``.

    Each recursion has a history of its own, which holds the tokens that were in it alone. In training each
    recursion chooses its best tokens, so that the share of them is known; decoding one token at a time, only
    the gate itself can be asked, which it is trained for. Source: Mixture-of-Recursions
    (https://arxiv.org/abs/2507.10524) with recursion-wise caches, and its released router, whose `alpha` is
    0.1; here one block is shared, where the paper shares a stack of them.

    Attributes:
        router: f32[R, D].
        shared: the number of the block.
        alpha, threshold: see above.

    Raises:
        ValueError: an option outside its range; when traced, a model of another width or with fewer blocks.
    """

    router: jax.Array
    shared: int
    alpha: jax.Array | float = 0.1
    threshold: jax.Array | float = 0.5

    def __post_init__(self) -> None:
        _check(self.router, self.shared, self.alpha)
        check_number("threshold", self.threshold, low=0.0)

    @property
    def reads_prompts(self) -> bool:
        """See `ReadingPrompts`: the model was trained with it."""
        return True

    def most_passes(self, blocks: int) -> tuple[int, ...]:
        return _most_passes(self.router, self.shared, blocks)

    def begin(self, walk: Walk) -> Walk:
        _check_width(self.router, walk.d_model)
        return replace(walk, notes=walk.window.is_valid)

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.index != self.shared:
            return _plainly(offered, stream, walk)
        gates = self.gates(offered.repeat, stream)
        tokens = walk.notes & (gates > self.alpha * self.threshold)
        read, written = offered.write_tokens(stream, tokens)
        stream = recursed(tokens, gates, read, stream)
        return stream, written, replace(walk, depth=walk.depth + tokens, notes=tokens)

    def gates(self, recursion: int, stream: Stream) -> Float[Array, "B S"]:
        """How much of the block's output is added in a recursion."""
        return self.alpha * jax.nn.sigmoid(self.logits(recursion, stream))

    def logits(self, recursion: int, stream: Stream) -> Float[Array, "B S"]:
        """What the router says of each token in front of a recursion."""
        return stream.hidden.astype(jnp.float32) @ self.router[recursion]


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenChoiceRecursions:
    """A `Depth`: in front of block `shared` each token is given its number of passes through it, the best of
    ``softmax(router @ h)``. Before its last pass its stream h becomes ``block(h)``, and there
    ``gate * block(h) + h_1``, gate being `alpha` times that probability and h_1 its stream in front of the
    first.

    Each recursion has a history of its own, which holds the tokens that were in it alone. Source:
    Mixture-of-Recursions (https://arxiv.org/abs/2507.10524); that the gate is a softmax's is one of its
    variants, and one block is shared, where the paper shares a stack of them.

    Attributes:
        router: f32[R, D].
        shared: the number of the block.
        alpha: see above.

    Raises:
        ValueError: an option outside its range; when traced, a model of another width or with fewer blocks.
    """

    router: jax.Array
    shared: int
    alpha: jax.Array | float = 1.0

    def __post_init__(self) -> None:
        _check(self.router, self.shared, self.alpha)

    @property
    def reads_prompts(self) -> bool:
        """See `ReadingPrompts`: the model was trained with it."""
        return True

    def most_passes(self, blocks: int) -> tuple[int, ...]:
        return _most_passes(self.router, self.shared, blocks)

    def begin(self, walk: Walk) -> Walk:
        _check_width(self.router, walk.d_model)
        return walk

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.index != self.shared:
            return _plainly(offered, stream, walk)
        if offered.repeat == 0:
            shares = self.shares(stream)
            walk = replace(walk, notes=(jnp.argmax(shares, -1), shares.max(-1), stream.hidden))
        last, share, first = walk.notes
        tokens = (last >= offered.repeat) & walk.window.is_valid
        read, written = offered.write_tokens(stream, tokens)

        def step(before: Stream) -> Stream:
            after = read(before)
            gates = (self.alpha * share)[:, :, None].astype(after.hidden.dtype)
            is_last = (last == offered.repeat)[:, :, None]
            hidden = jnp.where(is_last, gates * after.hidden + first, after.hidden)
            return replace(after, hidden=hidden)

        stream = read_where(tokens, step, stream)
        return stream, written, replace(walk, depth=walk.depth + tokens)

    def shares(self, stream: Stream) -> Float[Array, "B S R"]:
        """The probabilities of 1, 2, ... passes."""
        return jax.nn.softmax(jnp.einsum("bsd,rd->bsr", stream.hidden.astype(jnp.float32), self.router))


def recursed(tokens: Bool[Array, "B S"], gates: Float[Array, "B S"], read: Any, stream: Stream) -> Stream:
    """The stream with ``gate * block(h)`` added for some tokens; where there are none, nothing runs."""

    def step(before: Stream) -> Stream:
        after = read(before)
        weights = gates[:, :, None].astype(after.hidden.dtype)
        return replace(after, hidden=before.hidden + weights * after.hidden)

    return read_where(tokens, step, stream)


def _plainly(offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
    """A block that is not shared: once."""
    if offered.repeat:
        return stream, offered.hold(), walk
    read, written = offered.write(stream)
    return read(stream), written, replace(walk, depth=walk.depth + walk.window.is_valid)


def _check(router: Any, shared: Any, alpha: Any) -> None:
    whole("shared", shared, low=0)
    check_number("alpha", alpha, low=0.0)
    if not is_traced(router) and (jnp.ndim(router) != 2 or not jnp.shape(router)[0]):
        raise ValueError(f"router must be [R, D] for R recursions, got {list(jnp.shape(router))}")


def _check_width(router: Any, d_model: int) -> None:
    if router.shape[1] != d_model:
        raise ValueError(
            f"router {list(router.shape)} is for a stream of width {router.shape[1]}, the model's has "
            f"{d_model}"
        )


def _most_passes(router: Any, shared: int, blocks: int) -> tuple[int, ...]:
    if shared >= blocks:
        raise ValueError(f"shared: there is no block {shared}, the model has {blocks}")
    return tuple(router.shape[0] if i == shared else 1 for i in range(blocks))


register_dataclass(ExpertChoiceRecursions, ["router", "alpha", "threshold"], ["shared"])
register_dataclass(TokenChoiceRecursions, ["router", "alpha"], ["shared"])
