"""Diffusion transformers whose blocks go by time and class: DiT and SiT."""

from dataclasses import dataclass, replace
from typing import Any

import jax
from jaxtyping import Array, Float, Int, Num

from jaxmodels.layers.condition import NORM_PARTS, AdaptiveNorm, Condition, ProjectedModulation
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.sincos import sincos_grid
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.adaptive_block import AdaptiveBlock
from jaxmodels.models.block import Stream
from jaxmodels.models.denoisers.class_conditioner import ClassConditioner
from jaxmodels.models.denoisers.denoiser import InStages, Streams
from jaxmodels.models.denoisers.parts import bare_norm, final_norm, plain_attention
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.modules import COMPUTE, Modules, within


@dataclass(frozen=True, kw_only=True)
class DiT(InStages):
    """A transformer over the patches of a square canvas (https://arxiv.org/abs/2212.09748).

    SiT (https://arxiv.org/abs/2401.08740) is the same network, trained to predict a velocity. Files of
    `diffusers` and of the official code differ in three things on the same weights, each a field of a part:
    the frequencies of times (`TimestepEmbedding.freq_shift`), the eps of the blocks' second norm, and whether
    each block embeds time and class with weights of its own.

    Attributes:
        sample_size: height and width of the canvases it was trained on.
        projections: from patches to the stream and back.
        blocks: one for each layer.
        conditioner: makes the condition of time and class.
        own_conditioners: whether each block has conditioner weights of its own, as `diffusers` stores them;
            the last norm goes by those of the first block.
        final_norm: the norm in front of the last projection.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: there are no blocks, or patches do not divide `sample_size`.
    """

    sample_size: int
    projections: PatchProjections
    blocks: tuple[AdaptiveBlock, ...]
    conditioner: ClassConditioner
    own_conditioners: bool = False
    final_norm: AdaptiveNorm
    family: str | None = None

    def __post_init__(self) -> None:
        if not self.blocks:
            raise ValueError("DiT: blocks must hold at least one block")
        patch_grid(self.sample_size, self.sample_size, self.projections.patch)

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        made = self.conditioner.spec()
        count = len(self.blocks) if self.own_conditioners else 1
        return {
            **self.projections.spec(),
            "conditioners": {str(i): made for i in range(count)},
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "final_norm": self.final_norm.spec(),
        }

    @property
    def num_times(self) -> int:
        """2 for a model of two times."""
        return 1 if self.conditioner.second is None else 2

    def named_blocks(self) -> dict[str, AdaptiveBlock]:
        """The blocks in the order in which they run, by the path of their parameters."""
        return {f"blocks/{i}": block for i, block in enumerate(self.blocks)}

    def check(self, x: Array, t: Array, condition: Any) -> None:
        """See `Stages.check`. Canvases must be squares of patches, and `t` may also be that of each patch."""
        rows, columns = self.projections.grid(x)
        batch = x.shape[0]
        if rows != columns:
            raise ValueError(f"x: the model takes square canvases, got {x.shape[1]} x {x.shape[2]}")
        self.conditioner.check_times(t, batch, rows * columns)
        self.conditioner.classes.check(condition, batch)

    def abstract_condition(self, batch: int, tokens: int) -> jax.ShapeDtypeStruct:
        """See `Stages.abstract_condition`."""
        return self.conditioner.classes.abstract(batch)

    def read(self, params: Params, condition: Int[Array, "B"]) -> tuple[Float[Array, "B D"], ...]:
        """The rows of classes, for each conditioner. condition: the class of each row, `num_classes` for
        none."""
        table, weights = self.conditioner.classes, self._conditioners(params)
        return tuple(table(each["classes"], condition) for each in weights)

    def conditions(
        self,
        params: Params,
        t: Num[Array, "B ..."],
        given: tuple[Float[Array, "B D"], ...],
    ) -> tuple[Condition, ...]:
        """What the blocks go by: one condition for all, or one for each block."""
        conditioners = zip(self._conditioners(params), given, strict=True)
        return tuple(self.conditioner(weights, t, classes) for weights, classes in conditioners)

    @staticmethod
    def _conditioners(params: Params) -> list[Params]:
        """Their weights in the order of the blocks: JAX sorts a dict's keys, "10" before "2"."""
        weights = params["conditioners"]
        return [weights[str(i)] for i in range(len(weights))]

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: Any) -> Streams:
        """Patches and their positions."""
        rows, columns = self.projections.grid(x)
        base = self.sample_size // self.projections.patch
        embedded = self.projections.embed(params, x)
        positions = sincos_grid(self.projections.d_model, rows, columns, base=base)
        return Streams(embedded + positions.astype(embedded.dtype), grid=(rows, columns))

    def run(
        self,
        params: Params,
        streams: Streams,
        made: tuple[Condition, ...],
        given: Any,
        blocks: range,
        modules: Modules = COMPUTE,
    ) -> Streams:
        """See `Stages.run`."""
        window = fresh_window(streams.hidden[..., 0], mask=BIDIRECTIONAL)
        stream = Stream(hidden=streams.hidden, embedded=streams.hidden)
        for i in blocks:
            stream = replace(stream, condition=made[i if self.own_conditioners else 0])
            hook = within(modules, f"blocks/{i}")
            stream = self.blocks[i].forward(params["blocks"][str(i)], stream, window, hook)
        return replace(streams, hidden=stream.hidden)

    def finish(
        self, params: Params, streams: Streams, made: tuple[Condition, ...], height: int, width: int
    ) -> Float[Array, "B H W O"]:
        """See `Stages.finish`."""
        hidden = self.final_norm(params["final_norm"], streams.hidden, made[0])
        return self.projections.predict(params, hidden, height, width)

    def flops(self, height: int, width: int, context: int = 0) -> int:
        """FLOPs of one step for one canvas, as `jaxmodels.models.costs` counts them. context: as other
        denoisers take it; this one reads no text, and its length changes nothing."""
        rows, columns = patch_grid(height, width, self.projections.patch)
        tokens = rows * columns
        conditioners = self.conditioner.flops() * (len(self.blocks) if self.own_conditioners else 1)
        modulations = self.final_norm.modulation.flops() + sum(
            block.modulation.flops() for block in self.blocks
        )
        layers = sum(block.layer_flops_per_token(tokens) for block in self.blocks)
        return conditioners + modulations + tokens * (layers + self.projections.flops_per_token())


def dit_block(num_heads: int, head_dim: int, d_ff: int) -> AdaptiveBlock:
    """The block of the official code."""
    d_model = num_heads * head_dim
    return AdaptiveBlock(
        mixer_norm=bare_norm(d_model),
        mixer=plain_attention(num_heads, head_dim),
        ffn_norm=bare_norm(d_model),
        ffn=MLP(d_model=d_model, d_ff=d_ff, activation="gelu_new"),
        modulation=ProjectedModulation(d_model=d_model, d_condition=d_model),
    )


def dit(
    block: AdaptiveBlock,
    num_layers: int,
    *,
    sample_size: int,
    projections: PatchProjections,
    num_classes: int,
    freq_shift: float = 0.0,
    own_conditioners: bool = False,
    family: str | None = None,
) -> DiT:
    """A `DiT` of equal blocks. freq_shift: see `TimestepEmbedding`."""
    time = TimestepEmbedding(d_model=projections.d_model, freq_shift=freq_shift)
    return DiT(
        sample_size=sample_size,
        projections=projections,
        blocks=(block,) * num_layers,
        conditioner=ClassConditioner(time=time, num_classes=num_classes),
        own_conditioners=own_conditioners,
        final_norm=final_norm(projections.d_model, NORM_PARTS),
        family=family,
    )
