"""Flux: blocks over image and text side by side, then blocks over both as one sequence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import AdaptiveNorm
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.rope_axes import AxesRope, grid_positions
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Window, fresh_window
from jaxmodels.models.denoisers.denoiser import Denoised
from jaxmodels.models.denoisers.joint_block import JointBlock, SingleBlock
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.pooled_conditioner import PooledConditioner
from jaxmodels.models.denoisers.text import Text, check_text
from jaxmodels.models.denoisers.text_projection import TextProjection
from jaxmodels.models.scored import check_taps


@dataclass(frozen=True, kw_only=True)
class Flux:
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
    conditioner: PooledConditioner
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

    @property
    def taps(self) -> tuple[str, ...]:
        """The names of the streams that `denoise` can give; those of single blocks are text, then image."""
        doubles = range(len(self.blocks))
        return (
            "embeddings",
            *(f"blocks/{i}" for i in doubles),
            *(f"blocks/{i}/context" for i in doubles),
            *(f"single_blocks/{i}" for i in range(len(self.single_blocks))),
        )

    def denoise(
        self,
        params: Params,
        x: Float[Array, "B H W C"],
        t: Num[Array, "B"],
        condition: Text,
        *,
        taps: Sequence[str] = (),
    ) -> Denoised:
        """See `Denoiser.denoise`. condition: a text with `pooled`, and with `guidance` if the model is told
        it; all of its tokens are seen.

        Raises:
            ValueError: `x`, `t` or `condition` do not fit the model or each other; it has no such tap.
        """
        rows, columns = self.projections.grid(x)
        batch, height, width = x.shape[0], x.shape[1], x.shape[2]
        if t.shape != (batch,):
            raise ValueError(f"t: expected [{batch}], got {list(t.shape)}")
        check_text(condition, batch, self.text.width, self.conditioner.reads(batch))
        check_taps(taps, self.taps)
        stream = self.projections.embed(params, x)
        made = self.conditioner(params["conditioner"], t, condition)
        context = self.text(params["context"], condition.tokens)
        size = context.shape[1]
        text, image = np.zeros((1, size, 3), int), grid_positions(rows, columns, leading=(0,))
        windows, seen = [self._window(batch, places) for places in (image, text)], {"embeddings": stream}
        for i, block in enumerate(self.blocks):
            stream, after = block.forward(params["blocks"][str(i)], stream, context, made, *windows)
            assert after is not None
            context = after
            seen |= {f"blocks/{i}": stream, f"blocks/{i}/context": context}
        both = jnp.concatenate([context, stream], axis=1)
        window = self._window(batch, np.concatenate([text, image], axis=1))
        for i, single in enumerate(self.single_blocks):
            both = single.forward(params["single_blocks"][str(i)], both, made, window)
            seen[f"single_blocks/{i}"] = both
        hidden = self.final_norm(params["final_norm"], both[:, size:], made)
        prediction = self.projections.predict(params, hidden, height, width)
        return Denoised(prediction, {name: seen[name] for name in taps})

    def flops(self, height: int, width: int, context: int) -> int:
        """FLOPs of one step for one canvas and a text of `context` tokens."""
        rows, columns = patch_grid(height, width, self.projections.patch)
        tokens, of_context = rows * columns, context * self.text.flops_per_token()
        blocks = sum(block.flops(tokens, context) for block in self.blocks)
        singles = sum(block.flops(tokens + context) for block in self.single_blocks)
        once = self.conditioner.flops() + self.final_norm.modulation.flops()
        return once + of_context + blocks + singles + tokens * self.projections.flops_per_token()

    def _window(self, batch: int, places: np.ndarray) -> Window:
        """The window of tokens at these places, rotated by all three of their numbers."""
        window = fresh_window(jnp.zeros((batch, places.shape[1]), jnp.int32), mask=BIDIRECTIONAL)
        turned = self.rope.at(np.broadcast_to(places, (batch, *places.shape[1:])))
        return replace(window, rotations={self.rope: turned})
