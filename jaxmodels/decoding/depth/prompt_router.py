"""A policy of depth that makes one plan of skip, run and repeat for each prompt: Dr.LLM."""

from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.depth.budget import check_unread
from jaxmodels.layers.spec import buffer
from jaxmodels.layers.window import Window
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Pass, Unread, Walk, pass_where
from jaxmodels.pytrees import register_dataclass

VERDICTS = ("skip", "run", "repeat")


class Pooled(NamedTuple):
    """A row's tokens as means over its `windows` parts of equal size.

    Attributes:
        means: f32[B, W, D].
        there: i32[B], how many of the parts there are: fewer than W in rows of fewer tokens.
    """

    means: Float[Array, "B W D"]
    there: Int[Array, "B"]


def pooled(stream: Stream, window: Window, windows: int) -> Pooled:
    """The real tokens of each row in at most so many parts; those left over at the end count in none."""
    valid = window.valid.astype(jnp.int32)
    count = jnp.clip(valid, 1, windows)
    size = jnp.maximum(valid // count, 1)
    part = jnp.arange(stream.hidden.shape[1]) // size[:, None]
    chosen = (part[:, :, None] == jnp.arange(windows)) & window.is_valid[:, :, None]
    chosen &= part[:, :, None] < count[:, None, None]
    sums = jnp.einsum("bsw,bsd->bwd", chosen.astype(jnp.float32), stream.hidden.astype(jnp.float32))
    return Pooled(means=sums / size[:, None, None], there=count)


@dataclass(frozen=True, kw_only=True, eq=False)
class PromptRouter:
    """A `Depth`: in front of each block a small network looks at the prompt and says whether its row skips
    the block, runs it or repeats it. That plan then holds for all that is decoded.

    Block l's network is ``w_out[l] @ gelu(w_in[l] @ x + b_in[l]) + b_out[l]``, x being the mean of one of
    `windows` parts of the prompt; the largest mean over the parts is the verdict: 0, 1 or 2 passes. A row
    decides with the first window that it is shown, which is its prompt where that fits into one. Each pass
    has a history of its own, see `RowPlans`. Source: Dr.LLM (https://arxiv.org/abs/2510.12773) and its
    released code, where the width H is 128 and `windows` 8.

    Attributes:
        w_in: f32[L, H, D].
        b_in: f32[L, H].
        w_out: f32[L, 3, H], by `VERDICTS`.
        b_out: f32[L, 3].
        windows: see above.
        unread: what a pass that is left out is shown in a row, see `jaxmodels.models.depth`.

    Raises:
        ValueError: an option outside its range, or arrays that do not fit each other; when traced, a model of
            another number of blocks or width.
    """

    w_in: jax.Array
    b_in: jax.Array
    w_out: jax.Array
    b_out: jax.Array
    windows: int = 8
    unread: Unread = "hold"

    def __post_init__(self) -> None:
        object.__setattr__(self, "windows", whole("windows", self.windows, low=1))
        check_unread(self.unread)
        arrays = (self.w_in, self.b_in, self.w_out, self.b_out)
        if any(is_traced(array) for array in arrays):
            return
        shapes = [jnp.shape(array) for array in arrays]
        blocks, hidden = (*shapes[0], 0, 0)[:2]
        expected = [shapes[0][:3], (blocks, hidden), (blocks, len(VERDICTS), hidden), (blocks, len(VERDICTS))]
        if len(shapes[0]) != 3 or shapes != expected:
            raise ValueError(
                "PromptRouter: w_in must be [L, H, D], b_in [L, H], w_out [L, 3, H] and b_out [L, 3], got "
                f"{', '.join(str(list(shape)) for shape in shapes)}"
            )

    @property
    def reads_prompts(self) -> bool:
        """See `ReadingPrompts`."""
        return True

    def most_passes(self, blocks: int) -> tuple[int, ...]:
        """2 for every block."""
        self._check_blocks(blocks)
        return (len(VERDICTS) - 1,) * blocks

    def state_spec(self, batch: int, d_model: int) -> Any:
        """Each row's plan, -1 where there is no verdict yet."""
        self._check_width(d_model)
        return buffer((batch, self.w_in.shape[0]), ("batch", None), "int32", -1)

    def begin(self, walk: Walk) -> Walk:
        self._check_blocks(walk.blocks)
        self._check_width(walk.d_model)
        return _noted(walk, walk.state)

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        plan: Int[Array, "B L"] = walk.notes
        if offered.repeat == 0:
            found = self.verdicts(offered.index, pooled(stream, walk.window, self.windows))
            before = plan[:, offered.index]
            plan = plan.at[:, offered.index].set(jnp.where(before < 0, found, before))
            walk = _noted(walk, plan)
        tokens = jnp.broadcast_to(plan[:, offered.index, None] > offered.repeat, walk.window.positions.shape)
        return pass_where(tokens, self.unread, offered, stream, walk)

    def logits(self, block: Int[Array, ""] | int, parts: Pooled) -> Float[Array, "B 3"]:
        """The mean logits of a block's verdicts over the parts of each row."""
        inner = jnp.einsum("bwd,hd->bwh", parts.means, self.w_in[block]) + self.b_in[block]
        of_parts = jnp.einsum("bwh,vh->bwv", jax.nn.gelu(inner, approximate=True), self.w_out[block])
        is_part = jnp.arange(self.windows) < parts.there[:, None]
        return jnp.where(is_part[:, :, None], of_parts, 0).sum(1) / parts.there[:, None] + self.b_out[block]

    def verdicts(self, block: int, parts: Pooled) -> Int[Array, "B"]:
        """The passes through a block that each row is to take."""
        return jnp.argmax(self.logits(block, parts), axis=-1).astype(jnp.int32)

    def _check_blocks(self, blocks: int) -> None:
        if self.w_in.shape[0] != blocks:
            raise ValueError(
                f"PromptRouter: w_in is for {self.w_in.shape[0]} blocks, but the model has {blocks}"
            )

    def _check_width(self, d_model: int) -> None:
        if self.w_in.shape[2] != d_model:
            raise ValueError(
                f"PromptRouter: w_in {list(self.w_in.shape)} is for a stream of width {self.w_in.shape[2]}, "
                f"the model's has {d_model}"
            )


def _noted(walk: Walk, plan: Int[Array, "B L"]) -> Walk:
    """The walk with a plan, which stands behind every token of the window."""
    batch, size = walk.window.positions.shape
    return replace(walk, notes=plan, state=jnp.broadcast_to(plan[:, None], (batch, size, plan.shape[1])))


register_dataclass(PromptRouter, ["w_in", "b_in", "w_out", "b_out"], ["windows", "unread"])
