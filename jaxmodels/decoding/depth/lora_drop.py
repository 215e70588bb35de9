"""A policy of depth that reads some blocks for every few tokens only, and corrects the last result."""

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.decoding.depth.budget import check_unread
from jaxmodels.decoding.depth.numbers import check_numbers_of_blocks
from jaxmodels.decoding.samplers import check_number
from jaxmodels.layers.spec import buffer
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Pass, Unread, Walk, pass_where
from jaxmodels.pytrees import register_dataclass

Reused = Literal["output", "update"]
REUSED: tuple[Reused, ...] = ("output", "update")


@struct.dataclass
class Anchors:
    """What `LoRADrop` keeps.

    Attributes:
        outputs: [B, K, D], what is reused of the dropped blocks, from a row's newest anchor.
        seen: bool[B], whether there has been one.
    """

    outputs: jax.Array
    seen: jax.Array


class _Window(NamedTuple):
    """Which tokens of a window are anchors.

    Attributes:
        is_anchor: whether each is one.
        newest: the window index of the newest one up to each token, -1 where that lies in front of the
            window.
    """

    is_anchor: Bool[Array, "B S"]
    newest: Int[Array, "B S"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LoRADrop:
    """A `Depth`: the blocks `dropped` are read for anchors, which are the tokens at every `period`-th
    position and the first that a row decodes. For the others block ``dropped[k]`` gives

        share[k] * its output at the newest anchor + scale / r * up[k] @ down[k] @ the stream in front of it,

    and its history holds nothing of them. In windows of several tokens a row with an anchor shows the block
    all of its tokens. Source: LoRA-Drop's released code, where r is 8, `scale` 16, `period` 8, and all blocks
    but every fourth are dropped; its authors train the whole model with the adapters. On a frozen model the
    output at another token, for which a correction of low rank cannot make up, costs much accuracy: see
    `reused` and `unread`, which the authors do not have.

    Attributes:
        down: f32[K, r, D].
        up: f32[K, D, r].
        dropped: K blocks in order.
        period, scale: see above.
        share: f32[K], or one for all.
        reused: "output", as above; or "update": what the block added to its stream at the anchor, which is
            now added to the token's own stream.
        unread: what a dropped block is shown of tokens that are no anchors, see `jaxmodels.models.depth`.

    Raises:
        ValueError: an option outside its range, or arrays that do not fit it; when traced, a model of another
            width or with fewer blocks.
    """

    down: jax.Array
    up: jax.Array
    dropped: tuple[int, ...]
    period: int = 8
    scale: float = 16.0
    share: jax.Array | float = 1.0
    reused: Reused = "output"
    unread: Unread = "hold"

    def __post_init__(self) -> None:
        object.__setattr__(self, "period", whole("period", self.period, low=1))
        check_number("scale", self.scale, low=0.0)
        check_unread(self.unread)
        if self.reused not in REUSED:
            raise ValueError(f"reused must be 'output' or 'update', got {shown(self.reused)}")
        dropped = check_numbers_of_blocks("dropped", self.dropped)
        object.__setattr__(self, "dropped", dropped)
        if is_traced(self.down) or is_traced(self.up):
            return
        down, up = jnp.shape(self.down), jnp.shape(self.up)
        if len(down) != 3 or down[0] != len(dropped) or up != (down[0], down[2], down[1]):
            raise ValueError(
                f"LoRADrop: down must be [{len(dropped)}, r, D] and up [{len(dropped)}, D, r] for the "
                f"dropped blocks {list(dropped)}, got {list(down)} and {list(up)}"
            )
        if not is_traced(self.share) and jnp.shape(self.share) not in ((), (len(dropped),)):
            raise ValueError(
                f"LoRADrop: share must be [{len(dropped)}] for the dropped blocks {list(dropped)}, or one "
                f"number, got {list(jnp.shape(self.share))}"
            )

    def state_spec(self, batch: int, d_model: int) -> Any:
        """No anchor yet."""
        self._check_width(d_model)
        outputs = buffer((batch, len(self.dropped), d_model), ("batch", None, "embed"))
        return Anchors(outputs=outputs, seen=buffer((batch,), ("batch",), "bool"))

    def begin(self, walk: Walk) -> Walk:
        self._check_width(walk.d_model)
        if self.dropped[-1] >= walk.blocks:
            raise ValueError(f"dropped: there is no block {self.dropped[-1]}, the model has {walk.blocks}")
        window, before = walk.window, walk.state
        index = jnp.arange(window.size)
        is_first = (index == 0) & ~before.seen[:, None]
        is_anchor = ((window.positions % self.period == 0) | is_first) & window.is_valid
        newest = lax.cummax(jnp.where(is_anchor, index, -1), axis=1)
        shape = (*window.positions.shape, *before.outputs.shape[1:])
        state = Anchors(
            outputs=jnp.broadcast_to(before.outputs[:, None], shape),
            seen=before.seen[:, None] | (newest >= 0),
        )
        return replace(walk, notes=_Window(is_anchor, newest), state=state)

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.repeat:
            return stream, offered.hold(), walk
        window: _Window = walk.notes
        if offered.index not in self.dropped:
            read, written = offered.write(stream)
            return read(stream), written, replace(walk, depth=walk.depth + walk.window.is_valid)
        k = self.dropped.index(offered.index)
        after, written, walk = pass_where(window.is_anchor, self.unread, offered, stream, walk)
        outputs, kept = walk.state.outputs, jnp.zeros_like(stream.hidden)
        if self.reused == "update":
            kept = stream.hidden
        inside = jnp.take_along_axis(after.hidden - kept, jnp.maximum(window.newest, 0)[:, :, None], axis=1)
        newest = jnp.where(window.newest[:, :, None] >= 0, inside, outputs[:, :, k].astype(inside.dtype))
        share = jnp.broadcast_to(jnp.asarray(self.share, newest.dtype), (len(self.dropped),))[k]
        hidden = jnp.where(
            window.is_anchor[:, :, None],
            after.hidden,
            kept + share * newest + self._correction(k, stream.hidden),
        )
        state = replace(walk.state, outputs=outputs.at[:, :, k].set(newest.astype(outputs.dtype)))
        return replace(after, hidden=hidden), written, replace(walk, state=state)

    def _correction(self, k: int, hidden: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        low = jnp.einsum("bsd,rd->bsr", hidden, self.down[k])
        return (self.scale / self.down.shape[1] * jnp.einsum("bsr,dr->bsd", low, self.up[k])).astype(
            hidden.dtype
        )

    def _check_width(self, d_model: int) -> None:
        if self.down.shape[-1] != d_model:
            raise ValueError(
                f"LoRADrop: down {list(self.down.shape)} is for a stream of width {self.down.shape[-1]}, the "
                f"model's has {d_model}"
            )


register_dataclass(LoRADrop, ["down", "up", "scale", "share"], ["dropped", "period", "reused", "unread"])
