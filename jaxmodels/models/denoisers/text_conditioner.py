"""A time, and what else of a text the blocks of a denoiser go by, as one vector for each row."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import embed_mlp, embed_mlp_spec
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers.text import Text


@struct.dataclass
class ReadText:
    """What depends on a text alone.

    Attributes:
        context: [B, T, D], its tokens, at the stream's width.
        whole: [B, D], what `TextConditioner.read` makes of the rest.
        seen: bool[B, T], which tokens are real; None for all.
    """

    context: jax.Array
    whole: jax.Array
    seen: Any = None


@dataclass(frozen=True, kw_only=True)
class TextConditioner:
    """``time(t) + guidance(g) + text(pooled) + [height, width, aspect ratio]``, of which all but the time may
    be missing.

    Attributes:
        time: the embedding of times, and of guidance with weights of its own.
        pooled_width: width of the vector for the whole text; None where the model reads none.
        guided: whether the model is told the strength of guidance that it imitates.
        sizes: embedding of the picture's height, width and aspect ratio, of a third of the width each; None
            where the model is not told them.
        time_scale, guidance_scale: what times and strengths are multiplied by before they are embedded.
    """

    time: TimestepEmbedding
    pooled_width: int | None = None
    guided: bool = False
    sizes: TimestepEmbedding | None = None
    time_scale: float = 1.0
    guidance_scale: float = 1.0

    def spec(self) -> ParamTree:
        tree: ParamTree = {"time": self.time.spec()}
        if self.guided:
            tree["guidance"] = self.time.spec()
        if self.pooled_width is not None:
            tree["text"] = embed_mlp_spec(self.time.d_model, self.pooled_width)
        if self.sizes is not None:
            tree |= {"resolution": self.sizes.spec(), "aspect_ratio": self.sizes.spec()}
        return tree

    def reads(self, batch: int) -> dict[str, tuple[int, ...]]:
        """What it reads of a `Text`, see `check_text`."""
        reads: dict[str, tuple[int, ...]] = {}
        if self.pooled_width is not None:
            reads["pooled"] = (batch, self.pooled_width)
        if self.guided:
            reads["guidance"] = (batch,)
        return reads if self.sizes is None else reads | {"resolution": (batch, 2), "aspect_ratio": (batch,)}

    def flops(self) -> int:
        """FLOPs for one row."""
        d = self.time.d_model
        times = (2 if self.guided else 1) * self.time.flops()
        text = 0 if self.pooled_width is None else 2 * d * (self.pooled_width + d)
        return times + text + (0 if self.sizes is None else 3 * self.sizes.flops())

    def read(self, params: Params, text: Text) -> Float[Array, "B D"]:
        """What does not depend on time."""
        dtype = params["time"]["w_in"].dtype
        read = jnp.zeros((len(text.tokens), self.time.d_model), dtype)
        if self.guided:
            read = read + self.time(params["guidance"], text.guidance * self.guidance_scale)
        if self.pooled_width is not None:
            read = read + embed_mlp(params["text"], text.pooled.astype(dtype))
        if self.sizes is not None:
            resolution = self.sizes(params["resolution"], text.resolution).reshape(len(read), -1)
            ratio = self.sizes(params["aspect_ratio"], text.aspect_ratio)
            read = read + jnp.concatenate([resolution, ratio], axis=-1)
        return read

    def __call__(self, params: Params, t: Num[Array, "B"], read: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """The condition of each row. read: what `read` gave."""
        return self.time(params["time"], t * self.time_scale) + read
