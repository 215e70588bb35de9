"""Flux: blocks over image and text side by side, then blocks over both as one sequence."""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import AdaptiveNorm
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.rope_axes import AxesRope, grid_positions
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.denoisers.denoiser import InStages, Streams, check_times
from jaxmodels.models.denoisers.joint_block import JointBlock, SingleBlock
from jaxmodels.models.denoisers.parts import placed_window
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.text import Text, abstract_text, check_text
from jaxmodels.models.denoisers.text_conditioner import ReadText, TextConditioner
from jaxmodels.models.denoisers.text_projection import TextProjection
from jaxmodels.models.modules import COMPUTE, Modules, within


@dataclass(frozen=True, kw_only=True)
class Flux(InStages):
    """The transformer of Flux (https://github.com/black-forest-labs/flux), for canvases of any size.

    Its times are sigmas, from 0 to 1.

    Attributes:
        projections: from patches to the stream and back.
        text: from the text's tokens to the context.
        conditioner: makes the condition of time, pooled text and guidance.
        rope: rotates by three numbers: 0, row and column of an image's patches; 0 throughout for a text.
        blocks: the double blocks.
        single_blocks: those behind them, over text and image as one sequence.
        final_norm: the norm in front of the last projection.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: a block ends the context, or `rope` has other than three axes.
    """

    projections: PatchProjections
    text: TextProjection
    conditioner: TextConditioner
    rope: AxesRope
    blocks: tuple[JointBlock, ...]
    single_blocks: tuple[SingleBlock, ...]
    final_norm: AdaptiveNorm
    family: str | None = None

    def __post_init__(self) -> None:
        if any(block.mixer.ends_context for block in self.blocks):
            raise ValueError("Flux: no block may end the context, which the single blocks read")
        if len(self.rope.axes) != 3:
            raise ValueError(f"Flux: rope must have three axes, got {self.rope.axes}")

    @property
    def sample_size(self) -> int:
        """128, an eighth of 1024 x 1024 pixels: no configuration of the class says it."""
        return 128

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        return {
            **self.projections.spec(),
            "conditioner": self.conditioner.spec(),
            "context": self.text.spec(),
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "single_blocks": {str(i): block.spec() for i, block in enumerate(self.single_blocks)},
            "final_norm": self.final_norm.spec(),
        }

    def named_blocks(self) -> dict[str, JointBlock | SingleBlock]:
        """The blocks in the order in which they run, by the path of their parameters."""
        doubles = {f"blocks/{i}": block for i, block in enumerate(self.blocks)}
        return doubles | {f"single_blocks/{i}": block for i, block in enumerate(self.single_blocks)}

    def check(self, x: Array, t: Array, condition: Any) -> None:
        """See `Stages.check`."""
        self.projections.grid(x)
        batch = x.shape[0]
        check_times(t, batch)
        check_text(condition, batch, self.text.width, self.conditioner.reads(batch))

    def abstract_condition(self, batch: int, tokens: int) -> Text:
        """See `Stages.abstract_condition`."""
        return abstract_text(batch, tokens, self.text.width, self.conditioner.reads(batch))

    def read(self, params: Params, condition: Text) -> ReadText:
        """condition: a text with `pooled`, and with `guidance` if the model is told it; all of its tokens are
        seen."""
        context = self.text(params["context"], condition.tokens)
        return ReadText(context, self.conditioner.read(params["conditioner"], condition))

    def conditions(self, params: Params, t: Num[Array, "B"], given: ReadText) -> Float[Array, "B D"]:
        """Time, pooled text and guidance."""
        return self.conditioner(params["conditioner"], t, given.whole)

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: ReadText) -> Streams:
        """Patches and the text's tokens."""
        return Streams(self.projections.embed(params, x), given.context, grid=self.projections.grid(x))

    def run(
        self,
        params: Params,
        streams: Streams,
        made: Float[Array, "B D"],
        given: Any,
        blocks: range,
        modules: Modules = COMPUTE,
    ) -> Streams:
        """See `Stages.run`. Behind single blocks too, image and text are given as two streams."""
        stream, context = streams.hidden, streams.context
        batch, size, doubles = len(stream), context.shape[1], len(self.blocks)
        text, image = np.zeros((1, size, 3), int), grid_positions(*streams.grid, leading=(0,))
        of_image, of_text = (placed_window(self.rope, places, batch) for places in (image, text))
        for i in blocks[: max(0, doubles - blocks.start)]:
            weights, hook = params["blocks"][str(i)], within(modules, f"blocks/{i}")
            block = self.blocks[i]
            stream, context = block.forward(weights, stream, context, made, of_image, of_text, hook)
        both = jnp.concatenate([context, stream], axis=1)
        window = placed_window(self.rope, np.concatenate([text, image], axis=1), batch)
        for i in blocks[max(0, doubles - blocks.start) :]:
            weights = params["single_blocks"][str(i - doubles)]
            hook = within(modules, f"single_blocks/{i - doubles}")
            both = self.single_blocks[i - doubles].forward(weights, both, made, window, hook)
        return replace(streams, hidden=both[:, size:], context=both[:, :size])

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
        singles = sum(block.flops(tokens + context) for block in self.single_blocks)
        once = self.conditioner.flops() + self.final_norm.modulation.flops()
        return once + of_context + blocks + singles + tokens * self.projections.flops_per_token()
