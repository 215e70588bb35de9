"""HiDream: mixtures of experts over image and text, with a layer of a language model beside each block."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import AdaptiveNorm
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.rope_axes import AxesRope, grid_positions
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Window
from jaxmodels.models.denoisers.denoiser import InStages, Streams, check_times
from jaxmodels.models.denoisers.joint_block import JointBlock
from jaxmodels.models.denoisers.parts import placed_window
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.text import Text, abstract_text, check_text
from jaxmodels.models.denoisers.text_conditioner import TextConditioner
from jaxmodels.models.denoisers.text_projection import TextProjection
from jaxmodels.models.denoisers.tied_block import TiedBlock
from jaxmodels.models.modules import COMPUTE, Modules, within


@struct.dataclass
class ReadStates:
    """What depends on the text alone.

    Attributes:
        context: [B, T + S, D], the text's tokens and the last of `states`, at the stream's width.
        states: [B, S, D] for each block, what it reads of the language model.
        whole: [B, D], what `TextConditioner.read` makes of the rest.
    """

    context: jax.Array
    states: tuple[jax.Array, ...]
    whole: jax.Array


@dataclass(frozen=True, kw_only=True)
class HiDream(InStages):
    """The transformer of https://arxiv.org/abs/2505.22705, as `diffusers` computes it: blocks over image and
    text side by side, then blocks with the same weights for both. Each reads hidden states of a language
    model beside the text, of which no later block sees anything but through image and text.

    Canvases that are not square are filled up to `most_patches` with patches that are seen, with keys of 0:
    they take part in every mean that attention forms. Times are from 0 to 1000, and the prediction is the
    velocity from noise to data, the negative of what other models of flows predict.

    Attributes:
        projections: from patches to the stream and back.
        most_patches: how many patches a canvas that is not square is filled up to.
        text: from the text's tokens to the context.
        states: from the language model's hidden states to it, with weights of its own for each block.
        state_layers: which of the language model's layers each block reads; 0 is the first block's output.
        conditioner: makes the condition of time and pooled text.
        rope: rotates by three numbers: 0, row and column of an image's patches; 0 throughout for a text.
        blocks: the double blocks.
        single_blocks: those behind them, with the same weights for image and text.
        final_norm: the norm in front of the last projection.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: another block than the last ends the context, `state_layers` are not one for each block,
            or `rope` has other than three axes.
    """

    projections: PatchProjections
    most_patches: int
    text: TextProjection
    states: TextProjection
    state_layers: tuple[int, ...]
    conditioner: TextConditioner
    rope: AxesRope
    blocks: tuple[JointBlock, ...]
    single_blocks: tuple[TiedBlock, ...]
    final_norm: AdaptiveNorm
    family: str | None = None

    def __post_init__(self) -> None:
        ends = [not block.gives_context for block in self.named_blocks().values()]
        if not ends or ends != [False] * (len(ends) - 1) + [True]:
            raise ValueError(
                f"HiDream: the last of the blocks, and no other, must end the context, got {ends}"
            )
        if len(self.state_layers) != len(ends):
            raise ValueError(
                f"HiDream: state_layers must name one layer for each of {len(ends)} blocks, got "
                f"{self.state_layers}"
            )
        if len(self.rope.axes) != 3:
            raise ValueError(f"HiDream: rope must have three axes, got {self.rope.axes}")

    @property
    def sample_size(self) -> int:
        """128, an eighth of 1024 x 1024 pixels: no configuration of the class says it."""
        return 128

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        count = len(self.state_layers)
        return {
            **self.projections.spec(),
            "conditioner": self.conditioner.spec(),
            "context": self.text.spec(),
            "states": {str(i): self.states.spec() for i in range(count)},
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "single_blocks": {str(i): block.spec() for i, block in enumerate(self.single_blocks)},
            "final_norm": self.final_norm.spec(),
        }

    def named_blocks(self) -> dict[str, JointBlock | TiedBlock]:
        """The blocks in the order in which they run, by the path of their parameters."""
        doubles: dict[str, JointBlock | TiedBlock] = {
            f"blocks/{i}": block for i, block in enumerate(self.blocks)
        }
        return doubles | {f"single_blocks/{i}": block for i, block in enumerate(self.single_blocks)}

    def check(self, x: Array, t: Array, condition: Any) -> None:
        """See `Stages.check`."""
        rows, columns = self.projections.grid(x)
        batch = x.shape[0]
        if rows != columns and rows * columns > self.most_patches:
            raise ValueError(
                f"x: {rows} x {columns} patches, but a canvas that is not square has at most "
                f"{self.most_patches}"
            )
        check_times(t, batch)
        shape = getattr(getattr(condition, "states", None), "shape", (batch, 0, 1, 0))
        if len(shape) != 4:
            raise ValueError(
                f"condition.states: expected [{batch}, L, S, {self.states.width}], got {list(shape)}"
            )
        layers = max(shape[1], 1 + max(self.state_layers))
        reads = {"states": (batch, layers, shape[2], self.states.width)}
        check_text(condition, batch, self.text.width, reads | self.conditioner.reads(batch))

    def abstract_condition(self, batch: int, tokens: int) -> Text:
        """See `Stages.abstract_condition`. The language model reads as many tokens."""
        states = {"states": (batch, 1 + max(self.state_layers), tokens, self.states.width)}
        return abstract_text(batch, tokens, self.text.width, states | self.conditioner.reads(batch))

    def read(self, params: Params, condition: Text) -> ReadStates:
        """condition: a text with `pooled`, and with `states`; all of its tokens are seen."""
        states = tuple(
            self.states(params["states"][str(i)], condition.states[:, layer])
            for i, layer in enumerate(self.state_layers)
        )
        context = jnp.concatenate([self.text(params["context"], condition.tokens), states[-1]], axis=1)
        whole = self.conditioner.read(params["conditioner"], condition)
        return ReadStates(context=context, states=states, whole=whole)

    def conditions(self, params: Params, t: Num[Array, "B"], given: ReadStates) -> Float[Array, "B D"]:
        """Time and pooled text."""
        return self.conditioner(params["conditioner"], t, given.whole)

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: ReadStates) -> Streams:
        """Patches, with what fills up a canvas that is not square behind them, and the text's tokens."""
        rows, columns = self.projections.grid(x)
        hidden = self.projections.embed(params, x)
        filling = self._patches(rows, columns) - rows * columns
        if filling:
            empty = jnp.broadcast_to(params["patches"]["b"], (len(x), filling, hidden.shape[-1]))
            hidden = jnp.concatenate([hidden, empty], axis=1)
        return Streams(hidden, given.context, grid=(rows, columns))

    def run(
        self,
        params: Params,
        streams: Streams,
        made: Float[Array, "B D"],
        given: ReadStates,
        blocks: range,
        modules: Modules = COMPUTE,
    ) -> Streams:
        """See `Stages.run`."""
        stream, context = streams.hidden, streams.context
        size, doubles = given.context.shape[1], len(self.blocks)
        of_image, of_text = self._windows(streams, size + given.states[0].shape[1])
        for i, (name, block) in enumerate(self.named_blocks().items()):
            if i in blocks:
                kind, number = ("blocks", i) if i < doubles else ("single_blocks", i - doubles)
                weights, hook = params[kind][str(number)], within(modules, name)
                beside = jnp.concatenate([context, given.states[i]], axis=1)
                stream, after = block.forward(weights, stream, beside, made, of_image, of_text, hook)
                context = None if after is None else after[:, :size]
        return replace(streams, hidden=stream, context=context)

    def finish(
        self, params: Params, streams: Streams, made: Float[Array, "B D"], height: int, width: int
    ) -> Float[Array, "B H W O"]:
        """See `Stages.finish`."""
        rows, columns = streams.grid
        hidden = self.final_norm(params["final_norm"], streams.hidden[:, : rows * columns], made)
        return self.projections.predict(params, hidden, height, width)

    def flops(self, height: int, width: int, context: int) -> int:
        """FLOPs of one step for one canvas and a text of `context` tokens, for each of its encoders."""
        rows, columns = patch_grid(height, width, self.projections.patch)
        tokens, beside = self._patches(rows, columns), 3 * context
        layers = sum(block.flops(tokens, beside) for block in self.named_blocks().values())
        texts = context * self.text.flops_per_token()
        texts += len(self.state_layers) * context * self.states.flops_per_token()
        once = self.conditioner.flops() + self.final_norm.modulation.flops()
        return once + texts + layers + tokens * self.projections.flops_per_token()

    def _patches(self, rows: int, columns: int) -> int:
        """How many patches the image's stream has, those that fill it up included."""
        return rows * columns if rows == columns else self.most_patches

    def _windows(self, streams: Streams, beside: int) -> tuple[Window, Window]:
        """The windows of image and text."""
        batch, size = streams.hidden.shape[:2]
        rows, columns = streams.grid
        places = np.zeros((1, size, 3), int)
        places[:, : rows * columns] = grid_positions(rows, columns, leading=(0,))
        of_image = placed_window(self.rope, places, batch)
        of_image = replace(of_image, valid=jnp.full((batch,), rows * columns, jnp.int32))
        return of_image, placed_window(self.rope, np.zeros((1, beside, 3), int), batch)
