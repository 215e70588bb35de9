"""Stable Diffusion 3: image and text side by side, each with weights of its own."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import AdaptiveNorm
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.sincos import SincosPositions
from jaxmodels.layers.spec import Param, Params, ParamTree
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.denoisers.denoiser import Denoised
from jaxmodels.models.denoisers.joint_block import JointBlock
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.pooled_conditioner import PooledConditioner
from jaxmodels.models.denoisers.text import Text, check_text
from jaxmodels.models.denoisers.text_projection import TextProjection
from jaxmodels.models.scored import check_taps


@dataclass(frozen=True, kw_only=True)
class SD3:
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
    conditioner: PooledConditioner
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

    @property
    def taps(self) -> tuple[str, ...]:
        """The names of the streams that `denoise` can give: the image's, and the text's where it goes on."""
        last = len(self.blocks) - 1
        return (
            "embeddings",
            *(f"blocks/{i}" for i in range(last + 1)),
            *(f"blocks/{i}/context" for i in range(last)),
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
        """See `Denoiser.denoise`. condition: a text with `pooled`, all of whose tokens are seen.

        Raises:
            ValueError: `x`, `t` or `condition` do not fit the model or each other; it has no such tap.
        """
        batch, height, width = x.shape[0], x.shape[1], x.shape[2]
        embedded = self.embed(params, x)
        if t.shape != (batch,):
            raise ValueError(f"t: expected [{batch}], got {list(t.shape)}")
        check_text(condition, batch, self.text.width, self.conditioner.reads(batch))
        check_taps(taps, self.taps)
        made = self.conditioner(params["conditioner"], t, condition)
        context: jax.Array | None = self.text(params["context"], condition.tokens)
        windows = [fresh_window(a[..., 0], mask=BIDIRECTIONAL) for a in (embedded, condition.tokens)]
        stream, seen = embedded, {"embeddings": embedded}
        for i, block in enumerate(self.blocks):
            assert context is not None
            stream, context = block.forward(params["blocks"][str(i)], stream, context, made, *windows)
            seen[f"blocks/{i}"] = stream
            if context is not None:
                seen[f"blocks/{i}/context"] = context
        hidden = self.final_norm(params["final_norm"], stream, made)
        prediction = self.projections.predict(params, hidden, height, width)
        return Denoised(prediction, {name: seen[name] for name in taps})

    def embed(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B S D"]:
        """The stream in front of the first block: patches and their positions."""
        rows, columns = self.projections.grid(x)
        most, d = self.max_positions, self.projections.d_model
        if max(rows, columns) > most:
            raise ValueError(
                f"x: {rows} x {columns} patches, but the model has positions for {most} x {most}"
            )
        top, left = (most - rows) // 2, (most - columns) // 2
        positions = params["positions"]["weight"][top : top + rows, left : left + columns]
        return self.projections.embed(params, x) + positions.reshape(rows * columns, d)

    def flops(self, height: int, width: int, context: int) -> int:
        """FLOPs of one step for one canvas and a text of `context` tokens."""
        rows, columns = patch_grid(height, width, self.projections.patch)
        tokens, of_context = rows * columns, context * self.text.flops_per_token()
        blocks = sum(block.flops(tokens, context) for block in self.blocks)
        once = self.conditioner.flops() + self.final_norm.modulation.flops()
        return once + of_context + blocks + tokens * self.projections.flops_per_token()
