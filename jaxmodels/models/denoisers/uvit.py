"""U-ViT: a transformer whose later blocks join the streams behind the earlier ones."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Num

from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.mlp import MLP
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.spec import Normal, Param, Params, ParamTree
from jaxmodels.layers.timestep import timestep_features
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.denoisers.class_table import ClassTable
from jaxmodels.models.denoisers.denoiser import InStages, Streams, check_times
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.skip_block import SkipBlock
from jaxmodels.models.modules import COMPUTE, Modules, within


@dataclass(frozen=True, kw_only=True)
class UViT(InStages):
    """The transformer of https://arxiv.org/abs/2209.12152: time and class are tokens beside the patches, and
    each block of the second half joins the stream behind one of the first, the last with the first.

    Canvases are squares of the size that it has positions for.

    Attributes:
        sample_size: height and width of the canvases.
        projections: from patches to the stream and back.
        classes: the classes, that of no class included where the model was trained with it; None for a model
            without classes, whose condition is None.
        time: what the features of times pass; None for nothing.
        blocks: as many in front of the middle one as behind it, which join the earlier streams.
        final_norm: the norm in front of the last projection.
        smoothing: a convolution of what that gives; None for none.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: other blocks than those of the second half join streams, or patches do not divide
            `sample_size`.
    """

    sample_size: int
    projections: PatchProjections
    classes: ClassTable | None
    time: MLP | None = None
    blocks: tuple[SkipBlock, ...]
    final_norm: LayerNorm
    smoothing: Conv2D | None = None
    family: str | None = None

    def __post_init__(self) -> None:
        patch_grid(self.sample_size, self.sample_size, self.projections.patch)
        half, joins = len(self.blocks) // 2, [block.joins for block in self.blocks]
        if not joins or joins != [False] * (half + 1) + [True] * half:
            raise ValueError(
                "UViT: blocks must be odd in number, and those behind the middle one, no others, must join "
                f"streams; got joins={joins}"
            )

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        size, d = self.sample_size // self.projections.patch, self.projections.d_model
        tree: ParamTree = {
            **self.projections.spec(),
            "positions": {"weight": Param((self._extras + size**2, d), (None, "embed"), Normal(0.02))},
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "final_norm": self.final_norm.spec(),
        }
        for name in ("classes", "time", "smoothing"):
            part = getattr(self, name)
            if part is not None:
                tree[name] = part.spec()
        return tree

    def named_blocks(self) -> dict[str, SkipBlock]:
        """The blocks by the paths of their parameters."""
        return {f"blocks/{i}": block for i, block in enumerate(self.blocks)}

    def check(self, x: Array, t: Array, condition: Array | None) -> None:
        """See `Stages.check`. condition: the class of each row, or None for a model without classes."""
        grid, size = self.projections.grid(x), self.sample_size // self.projections.patch
        if grid != (size, size):
            raise ValueError(
                f"x: {grid[0]} x {grid[1]} patches, but the model has positions for {size} x {size}"
            )
        check_times(t, x.shape[0])
        if self.classes is not None:
            self.classes.check(condition, x.shape[0])
        elif condition is not None:
            raise ValueError(f"condition: the model has no classes, so that it must be None, got {condition}")

    def abstract_condition(self, batch: int, tokens: int) -> jax.ShapeDtypeStruct | None:
        """See `Stages.abstract_condition`."""
        return None if self.classes is None else self.classes.abstract(batch)

    def read(self, params: Params, condition: Int[Array, "B"] | None) -> Float[Array, "B D"] | None:
        """The classes' rows."""
        if self.classes is None or condition is None:
            return None
        return self.classes(params["classes"], condition)

    def conditions(
        self, params: Params, t: Num[Array, "B"], given: Float[Array, "B D"] | None
    ) -> Float[Array, "B D"]:
        """The token of the time."""
        token = timestep_features(t, self.projections.d_model).astype(params["patches"]["w"].dtype)
        return token if self.time is None else self.time(params["time"], token)

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: Float[Array, "B D"] | None) -> Streams:
        """The patches, and as context the tokens of class and time, the latter still 0; with their positions.
        `others` has room for the streams behind the blocks of the first half."""
        positions, extras = params["positions"]["weight"], self._extras
        hidden = self.projections.embed(params, x) + positions[extras:]
        unknown = jnp.zeros_like(hidden[:, :1])
        beside = unknown if given is None else jnp.concatenate([given[:, None], unknown], axis=1)
        batch, size, d = hidden.shape
        room = jnp.zeros((batch, extras + size, d), hidden.dtype)
        return Streams(
            hidden=hidden,
            context=beside + positions[:extras],
            others=(room,) * (len(self.blocks) // 2),
            grid=self.projections.grid(x),
        )

    def run(
        self,
        params: Params,
        streams: Streams,
        made: Float[Array, "B D"],
        given: Float[Array, "B D"] | None,
        blocks: range,
        modules: Modules = COMPUTE,
    ) -> Streams:
        """See `Stages.run`. The time joins its token in front of the first block."""
        context, earlier, half = streams.context, list(streams.others), len(self.blocks) // 2
        if blocks and blocks.start == 0:
            context = context.at[:, -1].add(made)
        x = jnp.concatenate([context, streams.hidden], axis=1)
        window = fresh_window(x[..., 0], mask=BIDIRECTIONAL)
        for i in blocks:
            weights, hook = params["blocks"][str(i)], within(modules, f"blocks/{i}")
            joined = earlier[len(self.blocks) - 1 - i] if i > half else None
            x = self.blocks[i].forward(weights, x, joined, window, hook)
            if i < half:
                earlier[i] = x
        context, hidden = x[:, : self._extras], x[:, self._extras :]
        return replace(streams, hidden=hidden, context=context, others=tuple(earlier))

    def finish(
        self, params: Params, streams: Streams, made: Float[Array, "B D"], height: int, width: int
    ) -> Float[Array, "B H W C"]:
        """The prediction; of noise, as the published models were trained."""
        hidden = self.final_norm(params["final_norm"], streams.hidden)
        prediction = self.projections.predict(params, hidden, height, width)
        return prediction if self.smoothing is None else self.smoothing(params["smoothing"], prediction)

    def flops(self, height: int, width: int, context: int = 0) -> int:
        """FLOPs of one step for one canvas, as `jaxmodels.models.costs` counts them. context: as other
        denoisers take it; this one reads no text, and its length changes nothing."""
        rows, columns = patch_grid(height, width, self.projections.patch)
        tokens = rows * columns + self._extras
        once = 0 if self.time is None else self.time.flops_per_token(1)
        once += 0 if self.smoothing is None else self.smoothing.flops(height, width)
        layers = sum(block.flops_per_token(tokens) for block in self.blocks)
        return once + tokens * layers + rows * columns * self.projections.flops_per_token()

    @property
    def _extras(self) -> int:
        """How many tokens stand beside the patches."""
        return 1 if self.classes is None else 2
