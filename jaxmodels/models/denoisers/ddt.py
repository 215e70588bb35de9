"""DDT: an encoder that finds what a canvas shows, and a decoder that goes by it token by token."""

from dataclasses import dataclass, replace

import jax
import numpy as np
from flax import struct
from jaxtyping import Array, Float, Int, Num

from jaxmodels.layers.condition import AdaptiveNorm, Condition, per_token
from jaxmodels.layers.mlp import activate
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.rope_axes import AxesRope
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Window
from jaxmodels.models.adaptive_block import AdaptiveBlock
from jaxmodels.models.block import Stream
from jaxmodels.models.denoisers.class_conditioner import ClassConditioner
from jaxmodels.models.denoisers.denoiser import InStages, Streams
from jaxmodels.models.denoisers.parts import placed_window
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.modules import COMPUTE, Modules, within


@struct.dataclass
class Conditions:
    """What the blocks of DDT go by.

    Attributes:
        time: [B, D] or [B, S, D], the embedded time, which is added to what the encoder found.
        encoder: the same with the class: what the encoder's blocks go by.
    """

    time: jax.Array
    encoder: jax.Array


@dataclass(frozen=True, kw_only=True)
class DDT(InStages):
    """The decoupled transformer of https://arxiv.org/abs/2504.05741, for canvases of any height and width.

    The encoder reads the patches under time and class. What it found is added to the time and is what each
    token of the decoder goes by, which reads the patches anew. Times are from 0, noise, to 1, data, and the
    prediction is the velocity from the one to the other.

    Attributes:
        projections: from patches to the decoder's stream and back; the encoder has others of the same sizes.
        conditioner: makes the condition of time and class.
        rope: rotates by two numbers, the position of a patch's column and that of its row.
        reach: the position of the last column and of the last row, however many there are; that of the first
            is 0.
        blocks: those of the encoder, then those of the decoder.
        num_encoder_blocks: how many are the encoder's.
        final_norm: the norm in front of the last projection, which goes by what the encoder found.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: encoder or decoder have no block, or `reach` is not above 0.
    """

    projections: PatchProjections
    conditioner: ClassConditioner
    rope: AxesRope
    reach: float = 16.0
    blocks: tuple[AdaptiveBlock, ...]
    num_encoder_blocks: int
    final_norm: AdaptiveNorm
    family: str | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.num_encoder_blocks < len(self.blocks):
            raise ValueError(
                f"DDT: num_encoder_blocks={self.num_encoder_blocks} must leave a block to the decoder and "
                f"have one, of {len(self.blocks)} in all"
            )
        if not self.reach > 0:
            raise ValueError(f"DDT: reach must be above 0, got {self.reach}")

    @property
    def sample_size(self) -> int:
        """32, an eighth of the 256 pixels that published models draw: no configuration says it."""
        return 32

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        ends = self.projections.spec()
        return {
            **ends,
            "encoder_patches": ends["patches"],
            "conditioner": self.conditioner.spec(),
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "final_norm": self.final_norm.spec(),
        }

    def named_blocks(self) -> dict[str, AdaptiveBlock]:
        """The encoder's blocks, then the decoder's."""
        return {f"blocks/{i}": block for i, block in enumerate(self.blocks)}

    def module_names(self) -> tuple[str, ...]:
        """ "encoder", the whole of it, then the parts of all blocks. What a hook calls at "encoder" computes
        the parts of the encoder's blocks."""
        return ("encoder", *super().module_names())

    def check(self, x: Array, t: Array, condition: Array) -> None:
        """See `Stages.check`. condition: the class of each row, `num_classes` for none."""
        rows, columns = self.projections.grid(x)
        self.conditioner.check_times(t, x.shape[0], rows * columns)
        self.conditioner.classes.check(condition, x.shape[0])

    def abstract_condition(self, batch: int, tokens: int) -> jax.ShapeDtypeStruct:
        """See `Stages.abstract_condition`."""
        return self.conditioner.classes.abstract(batch)

    def read(self, params: Params, condition: Int[Array, "B"]) -> Float[Array, "B D"]:
        """The classes' rows."""
        return self.conditioner.classes(params["conditioner"]["classes"], condition)

    def conditions(self, params: Params, t: Num[Array, "B ..."], given: Float[Array, "B D"]) -> Conditions:
        """The embedded time, and with the class what the encoder's blocks go by."""
        weights = params["conditioner"]
        encoder = activate("silu", self.conditioner(weights, t, given))
        return Conditions(time=self.conditioner.times(weights, t), encoder=encoder)

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: Float[Array, "B D"]) -> Streams:
        """The patches as the encoder reads them, and in `others` as the decoder does."""
        encoder = self.projections.embed({"patches": params["encoder_patches"]}, x)
        decoder = self.projections.embed(params, x)
        return Streams(hidden=encoder, others=decoder, grid=self.projections.grid(x))

    def run(
        self,
        params: Params,
        streams: Streams,
        made: Conditions,
        given: Float[Array, "B D"],
        blocks: range,
        modules: Modules = COMPUTE,
    ) -> Streams:
        """See `Stages.run`. `hidden` is the encoder's stream, and behind its last block the decoder's;
        `others` is the patches that the decoder reads, and behind that block what the encoder found.

        Where `blocks` begin with the whole encoder, what it found is the module "encoder". What is kept of it
        carries the time at which it was made, which the decoder knows no other way.
        """
        count, window = self.num_encoder_blocks, self._window(streams)
        encoder = range(blocks.start, min(blocks.stop, count))
        decoder = range(max(blocks.start, count), blocks.stop)
        if encoder:

            def encode() -> Float[Array, "B S D"]:
                hidden = self._through(params, streams.hidden, made.encoder, encoder, window, modules)
                if encoder.stop < count:
                    return hidden
                return activate("silu", per_token(made.time) + hidden)

            found = modules("encoder", encode) if encoder == range(count) else encode()
            if encoder.stop < count:
                return replace(streams, hidden=found)
            streams = replace(streams, hidden=streams.others, others=found)
        hidden = self._through(params, streams.hidden, streams.others, decoder, window, modules)
        return replace(streams, hidden=hidden)

    def finish(
        self, params: Params, streams: Streams, made: Conditions, height: int, width: int
    ) -> Float[Array, "B H W C"]:
        """The velocity, by the decoder's stream and what the encoder found."""
        hidden = self.final_norm(params["final_norm"], streams.hidden, streams.others)
        return self.projections.predict(params, hidden, height, width)

    def flops(self, height: int, width: int, context: int = 0) -> int:
        """FLOPs of one step for one canvas, as `jaxmodels.models.costs` counts them. context: as other
        denoisers take it; this one reads no text, and its length changes nothing."""
        rows, columns = patch_grid(height, width, self.projections.patch)
        tokens, p = rows * columns, self.projections
        encoder, decoder = self.blocks[: self.num_encoder_blocks], self.blocks[self.num_encoder_blocks :]
        layers = sum(block.layer_flops_per_token(tokens) for block in self.blocks)
        made = sum(block.modulation.flops() for block in encoder)
        made_per_token = self.final_norm.modulation.flops()
        made_per_token += sum(block.modulation.flops() for block in decoder)
        ends = p.flops_per_token() + 2 * p.d_model * p.patch**2 * p.in_channels
        return self.conditioner.flops() + made + tokens * (layers + made_per_token + ends)

    def _through(
        self,
        params: Params,
        hidden: Float[Array, "B S D"],
        condition: Condition,
        blocks: range,
        window: Window,
        modules: Modules,
    ) -> Float[Array, "B S D"]:
        stream = Stream(hidden=hidden, embedded=hidden, condition=condition)
        for i in blocks:
            weights, hook = params["blocks"][str(i)], within(modules, f"blocks/{i}")
            stream = self.blocks[i].forward(weights, stream, window, hook)
        return stream.hidden

    def _window(self, streams: Streams) -> Window:
        rows, columns = streams.grid
        row, column = (np.linspace(0.0, self.reach, size) for size in (rows, columns))
        places = np.stack([np.tile(column, rows), np.repeat(row, columns)], axis=-1)
        return placed_window(self.rope, places[None], len(streams.hidden))
