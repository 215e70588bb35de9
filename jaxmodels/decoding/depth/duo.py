"""Policies of depth that give each token the feed-forward, a small one in its place, or none: Duo-LLM."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, shown
from jaxmodels.layers.norm import rms_norm
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Pass, Walk, read_where
from jaxmodels.pytrees import register_dataclass

NONE, SMALL, BIG = 0, 1, 2


@dataclass(frozen=True, kw_only=True, eq=False)
class SmallFeedForwards:
    """One small gated feed-forward beside that of each block,

        w_down[l] @ (silu(w_gate[l] @ x) * (w_up[l] @ x)),

    for x the stream divided by its root mean square.

    Attributes:
        w_gate, w_up: f32[L, F, D].
        w_down: f32[L, D, F].

    Raises:
        ValueError: arrays that do not fit each other.
    """

    w_gate: jax.Array
    w_up: jax.Array
    w_down: jax.Array

    def __post_init__(self) -> None:
        if any(is_traced(array) for array in (self.w_gate, self.w_up, self.w_down)):
            return
        gate, up, down = (tuple(jnp.shape(array)) for array in (self.w_gate, self.w_up, self.w_down))
        if len(gate) != 3 or up != gate or down != (gate[0], gate[2], gate[1]):
            raise ValueError(
                "SmallFeedForwards: w_gate and w_up must be [L, F, D] and w_down [L, D, F], got "
                f"{list(gate)}, {list(up)} and {list(down)}"
            )

    def __call__(self, block: int, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        gate = jax.nn.silu(jnp.einsum("bsd,fd->bsf", x, self.w_gate[block]))
        up = jnp.einsum("bsd,fd->bsf", x, self.w_up[block])
        return jnp.einsum("bsf,df->bsd", gate * up, self.w_down[block])


@dataclass(frozen=True, kw_only=True, eq=False)
class RoutedFeedForwards:
    """A `Depth`: all mixers are read, and behind each a token takes the block's own feed-forward, the small
    one, or none, as the largest of ``router[l] @ x`` says; x is the stream divided by its root mean square.
    What no token takes does not run. Source: Duo-LLM (https://arxiv.org/abs/2410.10846), with the small
    feed-forwards beside a finished model, where the paper trains all from the start.

    Attributes:
        small: the small feed-forwards.
        router: f32[L, 3, D], by the block's own, small and none.

    Raises:
        ValueError: a router of other blocks or width than `small`; when traced, a model of another number of
            blocks or width, or with blocks that are not read in halves.
    """

    small: SmallFeedForwards
    router: jax.Array

    def __post_init__(self) -> None:
        gate = self.small.w_gate
        if is_traced(self.router) or is_traced(gate):
            return
        expected = (gate.shape[0], 3, gate.shape[2])
        if jnp.shape(self.router) != expected:
            raise ValueError(
                f"RoutedFeedForwards: router must be {list(expected)} for these small feed-forwards, got "
                f"{list(jnp.shape(self.router))}"
            )

    def begin(self, walk: Walk) -> Walk:
        _check_model(self.small, walk)
        return walk

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        def choose(x: Float[Array, "B S D"]) -> Int[Array, "B S"]:
            return BIG - jnp.argmax(jnp.einsum("bsd,vd->bsv", x, self.router[offered.index]), axis=-1)

        return _through(self.small, choose, offered, stream, walk)


@dataclass(frozen=True, kw_only=True, eq=False)
class ChosenFeedForwards:
    """A `Depth`: as `RoutedFeedForwards`, with the choice given, as by an oracle.

    Attributes:
        small: the small feed-forwards.
        choices: i32[B, L] or [L], 0 for none, 1 for small, 2 for big, for all tokens of a row.

    Raises:
        ValueError: a choice that is none of these; when traced, choices for another number of blocks or rows,
            and as `RoutedFeedForwards`.
    """

    small: SmallFeedForwards
    choices: jax.Array | np.ndarray

    def __post_init__(self) -> None:
        if is_traced(self.choices):
            return
        choices = np.asarray(self.choices)
        if choices.ndim not in (1, 2) or not np.issubdtype(choices.dtype, np.integer):
            raise ValueError(f"choices must be whole numbers [B, L] or [L], got {shown(self.choices)}")
        if choices.size and not NONE <= choices.min() <= choices.max() <= BIG:
            raise ValueError(f"choices must lie from 0 to 2, got {choices.min()} to {choices.max()}")

    def begin(self, walk: Walk) -> Walk:
        _check_model(self.small, walk)
        rows = walk.window.positions.shape[0]
        shape = jnp.shape(self.choices)
        if shape[-1] != walk.blocks or (len(shape) == 2 and shape[0] not in (1, rows)):
            raise ValueError(
                f"choices {list(shape)} are not for {rows} rows and a model of {walk.blocks} blocks"
            )
        return walk

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        def choose(x: Float[Array, "B S D"]) -> Int[Array, "B S"]:
            chosen = jnp.atleast_2d(self.choices)[:, offered.index, None]
            return jnp.broadcast_to(chosen, x.shape[:2])

        return _through(self.small, choose, offered, stream, walk)


def _through(
    small: SmallFeedForwards, choose: Any, offered: Pass, stream: Stream, walk: Walk
) -> tuple[Stream, Any, Walk]:
    """A block's mixer, and behind it for each token the feed-forward that `choose` gives."""
    if offered.repeat:
        return stream, offered.hold(), walk
    is_valid = walk.window.is_valid
    read_mixer, read_ffn, written = offered.write_halves(stream)
    stream = read_mixer(stream)
    x = unit(stream)
    choice = choose(x)

    def add_small(before: Stream) -> Stream:
        return replace(before, hidden=before.hidden + small(offered.index, x).astype(before.hidden.dtype))

    stream = read_where((choice == SMALL) & is_valid, add_small, stream)
    stream = read_where((choice == BIG) & is_valid, read_ffn, stream)
    return stream, written, replace(walk, depth=walk.depth + is_valid)


def unit(stream: Stream) -> Float[Array, "B S D"]:
    """The stream divided by its root mean square, in float32."""
    return rms_norm(stream.hidden.astype(jnp.float32), jnp.ones(1), 1e-6)


def _check_model(small: SmallFeedForwards, walk: Walk) -> None:
    blocks, _, width = small.w_gate.shape
    if (blocks, width) != (walk.blocks, walk.d_model):
        raise ValueError(
            f"SmallFeedForwards: w_gate {list(small.w_gate.shape)} is for {blocks} blocks of width {width}, "
            f"but the model has {walk.blocks} of width {walk.d_model}"
        )


register_dataclass(SmallFeedForwards, ["w_gate", "w_up", "w_down"], [])
register_dataclass(RoutedFeedForwards, ["small", "router"], [])
register_dataclass(ChosenFeedForwards, ["small", "choices"], [])
