"""Stable Diffusion 3: image and text side by side, each with weights of its own."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import AdaptiveNorm
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.sincos import SincosPositions
from jaxmodels.layers.spec import Param, Params, ParamTree
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.denoisers.denoiser import InStages, Streams, check_times
from jaxmodels.models.denoisers.joint_block import JointBlock
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.text import Text, abstract_text, check_text
from jaxmodels.models.denoisers.text_conditioner import ReadText, TextConditioner
from jaxmodels.models.denoisers.text_projection import TextProjection
from jaxmodels.models.modules import COMPUTE, Modules, within


@dataclass(frozen=True, kw_only=True)
class SD3(InStages):
    """The multimodal transformer of https://arxiv.org/abs/2403.03206, for canvases of any height and width up
    to its table of positions.

    Attributes:
        sample_size: height and width of the canvases it was trained on.
        max_positions: rows and columns of the stored table of positions, from whose middle those of a smaller
            canvas are taken.
        projections: from patches to the stream and back.
        text: from the text's tokens to the context.
        conditioner: makes the condition of time and pooled text.
        blocks: one for each layer; the last ends the context.
        final_norm: the norm in front of the last projection.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: there are no blocks, or another than the last ends the context.
    """

    sample_size: int
    max_positions: int
    projections: PatchProjections
    text: TextProjection
    conditioner: TextConditioner
    blocks: tuple[JointBlock, ...]
    final_norm: AdaptiveNorm
    family: str | None = None

    def __post_init__(self) -> None:
        ends = [block.mixer.ends_context for block in self.blocks]
        if not ends or ends != [False] * (len(ends) - 1) + [True]:
            raise ValueError(f"SD3: the last of the blocks, and no other, must end the context, got {ends}")

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        d, size = self.projections.d_model, self.max_positions
        positions = SincosPositions(self.sample_size // self.projections.patch)
        return {
            **self.projections.spec(),
            "positions": {"weight": Param((size, size, d), (None, None, "embed"), positions, frozen=True)},
            "conditioner": self.conditioner.spec(),
            "context": self.text.spec(),
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "final_norm": self.final_norm.spec(),
        }

    def named_blocks(self) -> dict[str, JointBlock]:
        """The blocks in the order in which they run, by the path of their parameters."""
        return {f"blocks/{i}": block for i, block in enumerate(self.blocks)}

    def check(self, x: Array, t: Array, condition: Any) -> None:
        """See `Stages.check`. There must be positions for the canvas's patches."""
        rows, columns = self.projections.grid(x)
        most, batch = self.max_positions, x.shape[0]
        if max(rows, columns) > most:
            raise ValueError(
                f"x: {rows} x {columns} patches, but the model has positions for {most} x {most}"
            )
        check_times(t, batch)
        check_text(condition, batch, self.text.width, self.conditioner.reads(batch))

    def abstract_condition(self, batch: int, tokens: int) -> Text:
        """See `Stages.abstract_condition`."""
        return abstract_text(batch, tokens, self.text.width, self.conditioner.reads(batch))

    def read(self, params: Params, condition: Text) -> ReadText:
        """condition: a text with `pooled`, all of whose tokens are seen."""
        context = self.text(params["context"], condition.tokens)
        return ReadText(context, self.conditioner.read(params["conditioner"], condition))

    def conditions(self, params: Params, t: Num[Array, "B"], given: ReadText) -> Float[Array, "B D"]:
        """Time and pooled text."""
        return self.conditioner(params["conditioner"], t, given.whole)

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: ReadText) -> Streams:
        """Patches and their positions; the text's tokens."""
        rows, columns = self.projections.grid(x)
        most, d = self.max_positions, self.projections.d_model
        top, left = (most - rows) // 2, (most - columns) // 2
        positions = params["positions"]["weight"][top : top + rows, left : left + columns]
        embedded = self.projections.embed(params, x) + positions.reshape(rows * columns, d)
        return Streams(embedded, given.context, grid=(rows, columns))

    def run(
        self,
        params: Params,
        streams: Streams,
        made: Float[Array, "B D"],
        given: Any,
        blocks: range,
        modules: Modules = COMPUTE,
    ) -> Streams:
        """See `Stages.run`."""
        x, context = streams.hidden, streams.context
        of_image, of_text = (fresh_window(a[..., 0], mask=BIDIRECTIONAL) for a in (x, given.context))
        for i in blocks:
            weights, hook = params["blocks"][str(i)], within(modules, f"blocks/{i}")
            x, context = self.blocks[i].forward(weights, x, context, made, of_image, of_text, hook)
        return replace(streams, hidden=x, context=context)

    def finish(
        self, params: Params, streams: Streams, made: Float[Array, "B D"], height: int, width: int
    ) -> Float[Array, "B H W O"]:
        """See `Stages.finish`."""
        hidden = self.final_norm(params["final_norm"], streams.hidden, made)
        return self.projections.predict(params, hidden, height, width)

    def flops(self, height: int, width: int, context: int) -> int:
        """FLOPs of one step for one canvas and a text of `context` tokens."""
        rows, columns = patch_grid(height, width, self.projections.patch)
        tokens, of_context = rows * columns, context * self.text.flops_per_token()
        blocks = sum(block.flops(tokens, context) for block in self.blocks)
        once = self.conditioner.flops() + self.final_norm.modulation.flops()
        return once + of_context + blocks + tokens * self.projections.flops_per_token()
