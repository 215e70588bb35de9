"""PixArt: a diffusion transformer that reads a text by cross-attention."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import AdaptiveNorm, ProjectedModulation, embed_mlp, embed_mlp_spec
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.sincos import sincos_grid
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.block import Stream
from jaxmodels.models.denoisers.cross_block import CrossBlock
from jaxmodels.models.denoisers.denoiser import InStages, Streams
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.text import Text, check_text, seen_tokens
from jaxmodels.models.modules import COMPUTE, Modules, within


@struct.dataclass
class ReadText:
    """What depends on the text alone.

    Attributes:
        context: [B, T, D], its tokens, at the stream's width.
        seen: bool[B, T], which of them are real.
        sizes: [B, D], the picture's height, width and aspect ratio; None where the model is not told them.
    """

    context: jax.Array
    seen: jax.Array
    sizes: Any


@struct.dataclass
class Timed:
    """What depends on time.

    Attributes:
        time: [B, D], with the picture's sizes: what the last norm goes by.
        modulation: [B, 6 D], the projection of it that all blocks share.
    """

    time: jax.Array
    modulation: jax.Array


@dataclass(frozen=True, kw_only=True)
class PixArt(InStages):
    """A transformer over patches whose blocks share one projection of the time (adaLN-single) and attend to a
    text (https://arxiv.org/abs/2310.00426), for canvases of any height and width.

    Attributes:
        sample_size: height and width of the canvases it was trained on.
        interpolation_scale: see `sincos_grid`.
        projections: from patches to the stream and back.
        blocks: one for each layer.
        time: the embedding of times.
        sizes: embedding of height, width and aspect ratio, of a third of the stream's width each; None where
            the model is not told them.
        modulation: the projection of the time that all blocks share.
        caption_width: width of the text's tokens.
        final_norm: the norm in front of the last projection.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: there are no blocks, or patches do not divide `sample_size`.
    """

    sample_size: int
    interpolation_scale: float = 1.0
    projections: PatchProjections
    blocks: tuple[CrossBlock, ...]
    time: TimestepEmbedding
    sizes: TimestepEmbedding | None = None
    modulation: ProjectedModulation
    caption_width: int
    final_norm: AdaptiveNorm
    family: str | None = None

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("PixArt: blocks must hold at least one block")
        patch_grid(self.sample_size, self.sample_size, self.projections.patch)

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        tree: ParamTree = {
            **self.projections.spec(),
            "time": self.time.spec(),
            "modulation": self.modulation.spec(),
            "caption": embed_mlp_spec(self.projections.d_model, self.caption_width),
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "final_norm": self.final_norm.spec(),
        }
        if self.sizes is not None:
            tree |= {"resolution": self.sizes.spec(), "aspect_ratio": self.sizes.spec()}
        return tree

    def named_blocks(self) -> dict[str, CrossBlock]:
        """The blocks in the order in which they run, by the path of their parameters."""
        return {f"blocks/{i}": block for i, block in enumerate(self.blocks)}

    def check(self, x: Array, t: Array, condition: Any) -> None:
        """See `Stages.check`."""
        self.projections.grid(x)
        batch = x.shape[0]
        if t.shape != (batch,):
            raise ValueError(f"t: expected [{batch}], got {list(t.shape)}")
        read = {"seen": condition.tokens.shape[:2]} if isinstance(condition, Text) else {}
        told = {} if self.sizes is None else {"resolution": (batch, 2), "aspect_ratio": (batch,)}
        check_text(condition, batch, self.caption_width, read | told)

    def read(self, params: Params, condition: Text) -> ReadText:
        """condition: a text, with `seen` or without; with `resolution` and `aspect_ratio` if the model is
        told them."""
        dtype = params["caption"]["w_in"].dtype
        context = embed_mlp(params["caption"], condition.tokens.astype(dtype), "gelu_new")
        return ReadText(context, seen_tokens(condition), self._sizes(params, condition))

    def conditions(self, params: Params, t: Num[Array, "B"], given: ReadText) -> Timed:
        """The time, and what the blocks share of it."""
        time = self.time(params["time"], t)
        time = time if given.sizes is None else time + given.sizes
        return Timed(time, self.modulation.project(params["modulation"], time).reshape(len(t), -1))

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: ReadText) -> Streams:
        """Patches and their positions."""
        rows, columns = self.projections.grid(x)
        embedded = self.projections.embed(params, x)
        base, d_model = self.sample_size // self.projections.patch, self.projections.d_model
        positions = sincos_grid(
            d_model, rows, columns, base=base, interpolation_scale=self.interpolation_scale
        )
        return Streams(embedded + positions.astype(embedded.dtype), grid=(rows, columns))

    def run(
        self,
        params: Params,
        streams: Streams,
        made: Timed,
        given: ReadText,
        blocks: range,
        modules: Modules = COMPUTE,
    ) -> Streams:
        """See `Stages.run`."""
        window = fresh_window(streams.hidden[..., 0], mask=BIDIRECTIONAL)
        stream = Stream(hidden=streams.hidden, embedded=streams.hidden, condition=made.modulation)
        for i in blocks:
            weights, hook = params["blocks"][str(i)], within(modules, f"blocks/{i}")
            stream = self.blocks[i].forward(weights, stream, window, given.context, given.seen, hook)
        return replace(streams, hidden=stream.hidden)

    def finish(
        self, params: Params, streams: Streams, made: Timed, height: int, width: int
    ) -> Float[Array, "B H W O"]:
        """See `Stages.finish`."""
        hidden = self.final_norm(params["final_norm"], streams.hidden, made.time)
        return self.projections.predict(params, hidden, height, width)

    def flops(self, height: int, width: int, context: int) -> int:
        """FLOPs of one step for one canvas and a text of `context` tokens."""
        rows, columns = patch_grid(height, width, self.projections.patch)
        d, tokens = self.projections.d_model, rows * columns
        caption = context * 2 * d * (self.caption_width + d)
        blocks = sum(block.flops(tokens, context) for block in self.blocks)
        sizes = 0 if self.sizes is None else 3 * self.sizes.flops()
        once = self.time.flops() + sizes + self.modulation.flops() + self.final_norm.modulation.flops()
        return once + caption + blocks + tokens * self.projections.flops_per_token()

    def _sizes(self, params: Params, text: Text) -> Float[Array, "B D"] | None:
        if self.sizes is None:
            return None
        told = [
            self.sizes(params["resolution"], text.resolution).reshape(len(text.resolution), -1),
            self.sizes(params["aspect_ratio"], text.aspect_ratio),
        ]
        return jnp.concatenate(told, axis=-1)
