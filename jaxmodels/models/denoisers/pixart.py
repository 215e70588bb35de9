"""PixArt: a diffusion transformer that reads a text by cross-attention."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
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
from jaxmodels.models.denoisers.denoiser import Denoised
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.denoisers.text import Text, check_text, seen_tokens
from jaxmodels.models.scored import check_taps


@dataclass(frozen=True, kw_only=True)
class PixArt:
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

    @property
    def taps(self) -> tuple[str, ...]:
        """The names of the streams that `denoise` can give."""
        return ("embeddings", *(f"blocks/{i}" for i in range(len(self.blocks))))

    def denoise(
        self,
        params: Params,
        x: Float[Array, "B H W C"],
        t: Num[Array, "B"],
        condition: Text,
        *,
        taps: Sequence[str] = (),
    ) -> Denoised:
        """See `Denoiser.denoise`. condition: a text, with `seen` or without; with `resolution` and
        `aspect_ratio` if the model is told them.

        Raises:
            ValueError: `x`, `t` or `condition` do not fit the model or each other; it has no such tap.
        """
        rows, columns = self.projections.grid(x)
        batch, height, width, _ = x.shape
        if t.shape != (batch,):
            raise ValueError(f"t: expected [{batch}], got {list(t.shape)}")
        read = {"seen": condition.tokens.shape[:2]} if isinstance(condition, Text) else {}
        told = {} if self.sizes is None else {"resolution": (batch, 2), "aspect_ratio": (batch,)}
        check_text(condition, batch, self.caption_width, read | told)
        check_taps(taps, self.taps)
        embedded = self.projections.embed(params, x)
        base, d_model = self.sample_size // self.projections.patch, self.projections.d_model
        positions = sincos_grid(
            d_model, rows, columns, base=base, interpolation_scale=self.interpolation_scale
        )
        embedded = embedded + positions.astype(embedded.dtype)
        context = embed_mlp(params["caption"], condition.tokens.astype(embedded.dtype), "gelu_new")
        time = self._time(params, t, condition)
        made = self.modulation.project(params["modulation"], time).reshape(batch, -1)
        window, seen = fresh_window(embedded[..., 0], mask=BIDIRECTIONAL), seen_tokens(condition)
        stream, streams = Stream(hidden=embedded, embedded=embedded, condition=made), {"embeddings": embedded}
        for i, block in enumerate(self.blocks):
            stream = block.forward(params["blocks"][str(i)], stream, window, context, seen)
            streams[f"blocks/{i}"] = stream.hidden
        hidden = self.final_norm(params["final_norm"], stream.narrow(), time)
        prediction = self.projections.predict(params, hidden, height, width)
        return Denoised(prediction, {name: streams[name] for name in taps})

    def flops(self, height: int, width: int, context: int) -> int:
        """FLOPs of one step for one canvas and a text of `context` tokens."""
        rows, columns = patch_grid(height, width, self.projections.patch)
        d, tokens = self.projections.d_model, rows * columns
        caption = context * 2 * d * (self.caption_width + d)
        blocks = sum(block.flops(tokens, context) for block in self.blocks)
        sizes = 0 if self.sizes is None else 3 * self.sizes.flops()
        once = self.time.flops() + sizes + self.modulation.flops() + self.final_norm.modulation.flops()
        return once + caption + blocks + tokens * self.projections.flops_per_token()

    def _time(self, params: Params, t: Num[Array, "B"], text: Text) -> Float[Array, "B D"]:
        time = self.time(params["time"], t)
        if self.sizes is None:
            return time
        told = [
            self.sizes(params["resolution"], text.resolution).reshape(len(t), -1),
            self.sizes(params["aspect_ratio"], text.aspect_ratio),
        ]
        return time + jnp.concatenate(told, axis=-1)
