"""A policy of depth that leaves out the attention of some blocks for whole prompts: MindSkip."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced
from jaxmodels.decoding.depth.budget import check_unread
from jaxmodels.decoding.depth.numbers import check_numbers_of_blocks
from jaxmodels.decoding.samplers import check_number
from jaxmodels.layers.norm import rms_norm
from jaxmodels.layers.spec import buffer
from jaxmodels.layers.window import Window
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Pass, Unread, Walk, read_where
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class MindSkip:
    """A `Depth`: the mixer of block ``routed[k]`` is read in the rows whose prompt scores `threshold` or more
    there, and its feed-forward always. The score is

        sigmoid(weight[k] @ the mean of the prompt's tokens, each divided by its root mean square).

    A row decides with the first window that it is shown, which is its prompt where that fits into one, and
    its verdict holds for all that is decoded. Source: MindSkip, trained by Router-Tuning
    (https://arxiv.org/abs/2410.13184), and its released code, which routes about half of the blocks, from the
    middle to the last but one; the scale of the norm in front of their attention is part of `weight` here.

    Attributes:
        weight: f32[K, D].
        routed: K blocks in order.
        threshold: see above.
        unread: what a mixer that is left out is shown in a row, see `jaxmodels.models.depth`.

    Raises:
        ValueError: an option outside its range, or arrays that do not fit it; when traced, a model of another
            width, with fewer blocks, or with blocks that are not read in halves.
    """

    weight: jax.Array
    routed: tuple[int, ...]
    threshold: jax.Array | float = 0.5
    unread: Unread = "hold"

    def __post_init__(self) -> None:
        object.__setattr__(self, "routed", check_numbers_of_blocks("routed", self.routed))
        check_number("threshold", self.threshold, low=0.0)
        check_unread(self.unread)
        if is_traced(self.weight):
            return
        weight = jnp.shape(self.weight)
        if len(weight) != 2 or weight[0] != len(self.routed):
            raise ValueError(
                f"MindSkip: weight must be [{len(self.routed)}, D] for the routed blocks "
                f"{list(self.routed)}, got {list(weight)}"
            )

    @property
    def reads_prompts(self) -> bool:
        """See `ReadingPrompts`."""
        return True

    def state_spec(self, batch: int, d_model: int) -> Any:
        """For each routed block 1 where its mixer is read, 0 where it is not, -1 before that is decided."""
        if self.weight.shape[1] != d_model:
            raise ValueError(
                f"MindSkip: weight {list(self.weight.shape)} is for a stream of width "
                f"{self.weight.shape[1]}, the model's has {d_model}"
            )
        return buffer((batch, len(self.routed)), ("batch", None), "int32", -1)

    def begin(self, walk: Walk) -> Walk:
        self.state_spec(1, walk.d_model)
        if self.routed[-1] >= walk.blocks:
            raise ValueError(f"routed: there is no block {self.routed[-1]}, the model has {walk.blocks}")
        return _noted(walk, walk.state)

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.repeat:
            return stream, offered.hold(), walk
        depth = walk.depth + walk.window.is_valid
        if offered.index not in self.routed:
            read, written = offered.write(stream)
            return read(stream), written, replace(walk, depth=depth)
        k, gates = self.routed.index(offered.index), walk.notes
        found = (self.scores(k, stream, walk.window) >= self.threshold).astype(jnp.int32)
        gates = gates.at[:, k].set(jnp.where(gates[:, k] < 0, found, gates[:, k]))
        tokens = (gates[:, k, None] > 0) & walk.window.is_valid
        read_mixer, read_ffn, written = offered.write_halves(
            stream, None if self.unread == "propagate" else tokens.any(1)
        )
        stream = read_ffn(read_where(tokens, read_mixer, stream))
        return stream, written, replace(_noted(walk, gates), depth=depth)

    def scores(self, k: int, stream: Stream, window: Window) -> Float[Array, "B"]:
        """How much each row's tokens want the mixer of block ``routed[k]``, from 0 to 1."""
        hidden = rms_norm(stream.hidden.astype(jnp.float32), jnp.ones(1), 1e-6)
        real = window.is_valid[:, :, None]
        mean = jnp.where(real, hidden, 0).sum(1) / jnp.maximum(real.sum(1), 1)
        return jax.nn.sigmoid(mean @ self.weight[k])


def _noted(walk: Walk, gates: Int[Array, "B K"]) -> Walk:
    """The walk with what is decided, which stands behind every token of the window."""
    batch, size = walk.window.positions.shape
    return replace(walk, notes=gates, state=jnp.broadcast_to(gates[:, None], (batch, size, gates.shape[1])))


register_dataclass(MindSkip, ["weight", "threshold"], ["routed", "unread"])
