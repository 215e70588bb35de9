"""Z-Image: blocks over image and text as one sequence, behind some over each by itself."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Num

from jaxmodels.layers.condition import AdaptiveNorm
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.rope_axes import AxesRope, grid_positions
from jaxmodels.layers.spec import Normal, Param, Params, ParamTree
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers.denoiser import InStages, Streams, check_times
from jaxmodels.models.denoisers.parts import placed_window
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.sandwich_block import SandwichBlock
from jaxmodels.models.denoisers.text import Text, abstract_text, check_text, seen_tokens
from jaxmodels.models.denoisers.text_projection import TextProjection
from jaxmodels.models.modules import COMPUTE, Modules, within


@struct.dataclass
class ReadCaption:
    """What depends on the text alone.

    Attributes:
        context: [B, T, D], its tokens behind their own blocks, and what fills them up.
        lengths: i32[B], how many of them are seen.
    """

    context: jax.Array
    lengths: jax.Array


@dataclass(frozen=True, kw_only=True)
class ZImage(InStages):
    """The transformer of https://arxiv.org/abs/2511.22699, as `diffusers` computes it.

    Text and image are filled up to a multiple of `multiple` tokens, each with a learned one, which are seen
    as the others are. Times are from 0, noise, to 1, data, and the prediction is the velocity from noise to
    data, the negative of what other models of flows predict.

    Attributes:
        projections: from patches to the stream and back.
        multiple: of tokens of either.
        text_norm, text: from the text's tokens to the context.
        time: the embedding of times.
        time_scale: what times are multiplied by before.
        rope: rotates by three numbers: the place of a token in the text, counted from 1, or of an image
            behind it; row and column. What fills up an image has 0 throughout.
        most_positions: below what each of these numbers must be.
        context_refiners: blocks over the text by itself, which do not go by time.
        refiners: blocks over the image by itself.
        blocks: those behind them, over both.
        final_norm: the norm in front of the last projection.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: there are no blocks, or `rope` has other than three axes.
    """

    projections: PatchProjections
    multiple: int = 32
    text_norm: RMSNorm
    text: TextProjection
    time: TimestepEmbedding
    time_scale: float = 1000.0
    rope: AxesRope
    most_positions: tuple[int, int, int]
    context_refiners: tuple[SandwichBlock, ...]
    refiners: tuple[SandwichBlock, ...]
    blocks: tuple[SandwichBlock, ...]
    final_norm: AdaptiveNorm
    family: str | None = None

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("ZImage: blocks must hold at least one block")
        if len(self.rope.axes) != 3:
            raise ValueError(f"ZImage: rope must have three axes, got {self.rope.axes}")

    @property
    def sample_size(self) -> int:
        """128, an eighth of 1024 x 1024 pixels: no configuration of the class says it."""
        return 128

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        filling = Param((self.projections.d_model,), ("embed",), Normal(0.02))
        tree: ParamTree = {
            **self.projections.spec(),
            "time": self.time.spec(),
            "text_norm": self.text_norm.spec(),
            "text": self.text.spec(),
            "filling": {"text": filling, "image": filling},
            "final_norm": self.final_norm.spec(),
        }
        for name in ("context_refiners", "refiners", "blocks"):
            tree[name] = {str(i): block.spec() for i, block in enumerate(getattr(self, name))}
        return tree

    def named_blocks(self) -> dict[str, SandwichBlock]:
        """The blocks that go by time, in the order in which they run, by the path of their parameters."""
        refiners = {f"refiners/{i}": block for i, block in enumerate(self.refiners)}
        return refiners | {f"blocks/{i}": block for i, block in enumerate(self.blocks)}

    def check(self, x: Array, t: Array, condition: Any) -> None:
        """See `Stages.check`."""
        grid, batch = self.projections.grid(x), x.shape[0]
        check_times(t, batch)
        seen = {"seen": condition.tokens.shape[:2]} if isinstance(condition, Text) else {}
        check_text(condition, batch, self.text.width, seen)
        most, size = self.most_positions, self._filled(condition.tokens.shape[1])
        if size + 1 >= most[0] or grid[0] > most[1] or grid[1] > most[2]:
            raise ValueError(
                f"x and condition.tokens: {grid[0]} x {grid[1]} patches behind {size} tokens, but the model "
                f"has positions for {most[1]} x {most[2]} behind {most[0] - 2}"
            )

    def abstract_condition(self, batch: int, tokens: int) -> Text:
        """See `Stages.abstract_condition`."""
        text = abstract_text(batch, tokens, self.text.width, {})
        return replace(text, seen=jax.ShapeDtypeStruct((batch, tokens), bool))

    def read(self, params: Params, condition: Text) -> ReadCaption:
        """condition: a text, with `seen` or without; its real tokens come first."""
        count = seen_tokens(condition).sum(1, dtype=jnp.int32)
        lengths = -(-count // self.multiple) * self.multiple
        tokens = condition.tokens.astype(params["text"]["w"].dtype)
        context = self.text(params["text"], self.text_norm(params["text_norm"], tokens))
        size = self._filled(context.shape[1])
        context = jnp.pad(context, ((0, 0), (0, size - context.shape[1]), (0, 0)))
        real = jnp.arange(size)[None] < count[:, None]
        context = jnp.where(real[..., None], context, params["filling"]["text"])
        window = replace(placed_window(self.rope, self._text_places(size), len(count)), valid=lengths)
        for i, block in enumerate(self.context_refiners):
            context = block.forward(params["context_refiners"][str(i)], context, None, window)
        return ReadCaption(context, lengths)

    def conditions(self, params: Params, t: Num[Array, "B"], given: ReadCaption) -> Float[Array, "B C"]:
        """The time."""
        return self.time(params["time"], t * self.time_scale)

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: ReadCaption) -> Streams:
        """Patches, with what fills them up behind them, and the text's tokens."""
        rows, columns = self.projections.grid(x)
        hidden = self.projections.embed(params, x)
        missing = self._filled(rows * columns) - rows * columns
        filling = jnp.broadcast_to(params["filling"]["image"], (len(x), missing, hidden.shape[-1]))
        hidden = jnp.concatenate([hidden, filling], axis=1)
        return Streams(hidden, given.context, grid=(rows, columns))

    def run(
        self,
        params: Params,
        streams: Streams,
        made: Float[Array, "B C"],
        given: ReadCaption,
        blocks: range,
        modules: Modules = COMPUTE,
    ) -> Streams:
        """See `Stages.run`."""
        hidden, context, first = streams.hidden, streams.context, len(self.refiners)
        batch, size = hidden.shape[:2]
        places = self._image_places(streams.grid, size, given.lengths)
        window = placed_window(self.rope, places, batch)
        for i in blocks[: max(0, first - blocks.start)]:
            weights, hook = params["refiners"][str(i)], within(modules, f"refiners/{i}")
            hidden = self.refiners[i].forward(weights, hidden, made, window, hook)
        text = jnp.broadcast_to(self._text_places(context.shape[1]), (batch, context.shape[1], 3))
        window = placed_window(self.rope, jnp.concatenate([places, text], axis=1), batch)
        window = replace(window, valid=size + given.lengths)
        both = jnp.concatenate([hidden, context], axis=1)
        for i in blocks[max(0, first - blocks.start) :]:
            weights, hook = params["blocks"][str(i - first)], within(modules, f"blocks/{i - first}")
            both = self.blocks[i - first].forward(weights, both, made, window, hook)
        return replace(streams, hidden=both[:, :size], context=both[:, size:])

    def finish(
        self, params: Params, streams: Streams, made: Float[Array, "B C"], height: int, width: int
    ) -> Float[Array, "B H W O"]:
        """See `Stages.finish`."""
        rows, columns = streams.grid
        hidden = self.final_norm(params["final_norm"], streams.hidden[:, : rows * columns], made)
        return self.projections.predict(params, hidden, height, width)

    def flops(self, height: int, width: int, context: int) -> int:
        """FLOPs of one step for one canvas and a text of `context` tokens."""
        rows, columns = patch_grid(height, width, self.projections.patch)
        tokens, beside = self._filled(rows * columns), self._filled(context)
        layers = sum(block.flops(beside) for block in self.context_refiners)
        layers += sum(block.flops(tokens) for block in self.refiners)
        layers += sum(block.flops(tokens + beside) for block in self.blocks)
        once = self.time.flops() + self.final_norm.modulation.flops()
        ends = rows * columns * self.projections.flops_per_token() + context * self.text.flops_per_token()
        return once + layers + ends

    def _filled(self, count: int) -> int:
        """So many tokens, filled up."""
        return -(-count // self.multiple) * self.multiple

    def _text_places(self, size: int) -> Int[np.ndarray, "1 S 3"]:
        places = np.zeros((1, size, 3), int)
        places[..., 0] = 1 + np.arange(size)
        return places

    def _image_places(
        self, grid: tuple[int, int], size: int, lengths: Int[Array, "B"]
    ) -> Int[Array, "B S 3"]:
        patches, places = grid[0] * grid[1], np.zeros((1, size, 3), np.int32)
        places[:, :patches] = grid_positions(*grid, leading=(1,))
        behind = lengths[:, None] * (np.arange(size) < patches)
        return jnp.asarray(places) + jnp.pad(behind[..., None], ((0, 0), (0, 0), (0, 2)))
