"""Diffusion transformers that read a text by cross-attention: PixArt and Sana."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from flax import struct
from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import AdaptiveNorm, ProjectedModulation, embed_mlp, embed_mlp_spec
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.sincos import sincos_grid
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.block import Stream
from jaxmodels.models.denoisers.cross_block import CrossBlock
from jaxmodels.models.denoisers.denoiser import InStages, Streams, check_times
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.text import Text, abstract_text, check_text, seen_tokens
from jaxmodels.models.denoisers.text_conditioner import ReadText, TextConditioner
from jaxmodels.models.modules import COMPUTE, Modules, within


@struct.dataclass
class Timed:
    """What depends on time.

    Attributes:
        time: [B, D], with what else the model is told: what the last norm goes by.
        modulation: [B, 6 D], the projection of it that all blocks share.
    """

    time: jax.Array
    modulation: jax.Array


@dataclass(frozen=True, kw_only=True)
class PixArt(InStages):
    """A transformer over patches whose blocks share one projection of the time (adaLN-single) and attend to a
    text (https://arxiv.org/abs/2310.00426), for canvases of any height and width.

    Sana (https://arxiv.org/abs/2410.10629) is the same network with linear attention, and with convolutions
    in its feed-forward in place of positions.

    Attributes:
        sample_size: height and width of the canvases it was trained on.
        interpolation_scale: see `sincos_grid`; None for no positions.
        projections: from patches to the stream and back.
        blocks: one for each layer.
        conditioner: makes the condition of time and what else the model is told.
        modulation: the projection of the condition that all blocks share.
        caption_width: width of the text's tokens.
        caption_norm: of the projected tokens; None for none.
        final_norm: the norm in front of the last projection.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: there are no blocks, or patches do not divide `sample_size`.
    """

    sample_size: int
    interpolation_scale: float | None = 1.0
    projections: PatchProjections
    blocks: tuple[CrossBlock, ...]
    conditioner: TextConditioner
    modulation: ProjectedModulation
    caption_width: int
    caption_norm: RMSNorm | None = None
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
            "conditioner": self.conditioner.spec(),
            "modulation": self.modulation.spec(),
            "caption": embed_mlp_spec(self.projections.d_model, self.caption_width),
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "final_norm": self.final_norm.spec(),
        }
        return tree if self.caption_norm is None else tree | {"caption_norm": self.caption_norm.spec()}

    def named_blocks(self) -> dict[str, CrossBlock]:
        """The blocks in the order in which they run, by the path of their parameters."""
        return {f"blocks/{i}": block for i, block in enumerate(self.blocks)}

    def check(self, x: Array, t: Array, condition: Any) -> None:
        """See `Stages.check`."""
        self.projections.grid(x)
        batch = x.shape[0]
        check_times(t, batch)
        read = {"seen": condition.tokens.shape[:2]} if isinstance(condition, Text) else {}
        check_text(condition, batch, self.caption_width, read | self.conditioner.reads(batch))

    def abstract_condition(self, batch: int, tokens: int) -> Text:
        """See `Stages.abstract_condition`."""
        text = abstract_text(batch, tokens, self.caption_width, self.conditioner.reads(batch))
        return replace(text, seen=jax.ShapeDtypeStruct((batch, tokens), bool))

    def read(self, params: Params, condition: Text) -> ReadText:
        """condition: a text, with `seen` or without; with what else the model is told of it."""
        dtype = params["caption"]["w_in"].dtype
        context = embed_mlp(params["caption"], condition.tokens.astype(dtype), "gelu_new")
        if self.caption_norm is not None:
            context = self.caption_norm(params["caption_norm"], context)
        whole = self.conditioner.read(params["conditioner"], condition)
        return ReadText(context, whole, seen_tokens(condition))

    def conditions(self, params: Params, t: Num[Array, "B"], given: ReadText) -> Timed:
        """The time, and what the blocks share of it."""
        time = self.conditioner(params["conditioner"], t, given.whole)
        return Timed(time, self.modulation.project(params["modulation"], time).reshape(len(t), -1))

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: ReadText) -> Streams:
        """Patches and their positions."""
        rows, columns = self.projections.grid(x)
        embedded = self.projections.embed(params, x)
        if self.interpolation_scale is not None:
            base, d_model = self.sample_size // self.projections.patch, self.projections.d_model
            positions = sincos_grid(
                d_model, rows, columns, base=base, interpolation_scale=self.interpolation_scale
            )
            embedded = embedded + positions.astype(embedded.dtype)
        return Streams(embedded, grid=(rows, columns))

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
            stream = self.blocks[i].forward(
                weights, stream, window, streams.grid, given.context, given.seen, hook
            )
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
        once = self.conditioner.flops() + self.modulation.flops() + self.final_norm.modulation.flops()
        return once + caption + blocks + tokens * self.projections.flops_per_token()
