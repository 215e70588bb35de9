"""A time and a whole text as the condition of a denoiser's blocks, and a strength of guidance."""

from dataclasses import dataclass

import jax
from flax import struct
from jaxtyping import Array, Float, Num

from jaxmodels.layers.condition import embed_mlp, embed_mlp_spec
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.timestep import TimestepEmbedding
from jaxmodels.models.denoisers.text import Text


@struct.dataclass
class ReadPooled:
    """What depends on a text alone, in models that take its tokens as context and one vector for the whole.

    Attributes:
        context: [B, T, D], its tokens, at the stream's width.
        pooled: [B, D], what `PooledConditioner.read` makes of the whole.
    """

    context: jax.Array
    pooled: jax.Array


@dataclass(frozen=True, kw_only=True)
class PooledConditioner:
    """``time(t) + guidance(g) + text(pooled)``, as SD3 and Flux have it.

    Attributes:
        time: the embedding of times, and of guidance with weights of its own.
        pooled_width: width of the vector for the whole text.
        guided: whether the model is told the strength of guidance that it imitates.
        time_scale: what times and strengths are multiplied by before they are embedded.
    """

    time: TimestepEmbedding
    pooled_width: int
    guided: bool = False
    time_scale: float = 1.0

    def spec(self) -> ParamTree:
        tree: ParamTree = {
            "time": self.time.spec(),
            "text": embed_mlp_spec(self.time.d_model, self.pooled_width),
        }
        return tree | {"guidance": self.time.spec()} if self.guided else tree

    def reads(self, batch: int) -> dict[str, tuple[int, ...]]:
        """What it reads of a `Text`, see `check_text`."""
        reads: dict[str, tuple[int, ...]] = {"pooled": (batch, self.pooled_width)}
        return reads | {"guidance": (batch,)} if self.guided else reads

    def flops(self) -> int:
        """FLOPs for one row."""
        d = self.time.d_model
        return (2 if self.guided else 1) * self.time.flops() + 2 * d * (self.pooled_width + d)

    def read(self, params: Params, text: Text) -> Float[Array, "B D"]:
        """What does not depend on time: pooled text and guidance."""
        read = embed_mlp(params["text"], text.pooled.astype(params["text"]["w_in"].dtype))
        return read + self.time(params["guidance"], text.guidance * self.time_scale) if self.guided else read

    def __call__(self, params: Params, t: Num[Array, "B"], read: Float[Array, "B D"]) -> Float[Array, "B D"]:
        """The condition of each row. read: what `read` gave."""
        return self.time(params["time"], t * self.time_scale) + read
