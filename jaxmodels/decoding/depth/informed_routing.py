"""A policy of depth that forecasts what mixers and feed-forwards would add, and reads those it cannot."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced
from jaxmodels.decoding.depth.budget import check_unread
from jaxmodels.decoding.depth.numbers import check_numbers_of_blocks
from jaxmodels.decoding.samplers import check_number
from jaxmodels.layers.norm import rms_norm
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Pass, Unread, Walk, read_where
from jaxmodels.pytrees import register_dataclass

MIXER, FFN = 0, 1


@dataclass(frozen=True, kw_only=True, eq=False)
class InformedRouting:
    """A `Depth`: in block ``routed[k]`` each token reads the mixer where a router wants it to, and else takes
    a forecast of what the mixer would add to its stream; the same with the feed-forward. For x, the stream
    divided by its root mean square, and u = 0 (mixer) or 1 (feed-forward), these are

        forecast = up[k, u] @ down[k, u] @ x
        score = sigmoid(on_stream[k, u] @ x + on_forecast[k, u] @ forecast + bias[k, u])

    and a score of at least `threshold` reads. Source: informed routing (https://arxiv.org/abs/2510.13831),
    whose lightweight feature forecasters are such two-layer linear networks of 50 features. What the router
    sees is inferred: the paper's is told what the forecast is.

    Attributes:
        down: f32[K, 2, r, D].
        up: f32[K, 2, D, r].
        on_stream, on_forecast: f32[K, 2, D].
        bias: f32[K, 2].
        routed: K blocks in order.
        threshold: see above.
        unread: what a mixer that is not read is shown of a token, see `jaxmodels.models.depth`.

    Raises:
        ValueError: an option outside its range, or arrays that do not fit each other; when traced, a model of
            another width, with fewer blocks, or with blocks that are not read in halves.
    """

    down: jax.Array
    up: jax.Array
    on_stream: jax.Array
    on_forecast: jax.Array
    bias: jax.Array
    routed: tuple[int, ...]
    threshold: jax.Array | float = 0.5
    unread: Unread = "propagate"

    def __post_init__(self) -> None:
        object.__setattr__(self, "routed", check_numbers_of_blocks("routed", self.routed))
        check_number("threshold", self.threshold, low=0.0)
        check_unread(self.unread)
        arrays = (self.down, self.up, self.on_stream, self.on_forecast, self.bias)
        if any(is_traced(array) for array in arrays):
            return
        shapes = [tuple(jnp.shape(array)) for array in arrays]
        blocks, rank, width = len(self.routed), *(*shapes[0], 0, 0)[2:4]
        each = (blocks, 2, width)
        if shapes != [(blocks, 2, rank, width), (blocks, 2, width, rank), each, each, (blocks, 2)]:
            raise ValueError(
                f"InformedRouting: for blocks {list(self.routed)} down must be [{blocks}, 2, r, D], up "
                f"[{blocks}, 2, D, r], on_stream and on_forecast [{blocks}, 2, D] and bias [{blocks}, 2], "
                f"got {', '.join(str(list(shape)) for shape in shapes)}"
            )

    def begin(self, walk: Walk) -> Walk:
        if self.down.shape[-1] != walk.d_model:
            raise ValueError(
                f"InformedRouting: down {list(self.down.shape)} is for a stream of width "
                f"{self.down.shape[-1]}, the model's has {walk.d_model}"
            )
        if self.routed[-1] >= walk.blocks:
            raise ValueError(f"routed: there is no block {self.routed[-1]}, the model has {walk.blocks}")
        return walk

    def through(self, offered: Pass, stream: Stream, walk: Walk) -> tuple[Stream, Any, Walk]:
        if offered.repeat:
            return stream, offered.hold(), walk
        walk = replace(walk, depth=walk.depth + walk.window.is_valid)
        if offered.index not in self.routed:
            read, written = offered.write(stream)
            return read(stream), written, walk
        k, is_valid = self.routed.index(offered.index), walk.window.is_valid
        scores, forecast = self.scores(k, MIXER, stream)
        tokens = (scores >= self.threshold) & is_valid
        read_mixer, read_ffn, written = offered.write_halves(
            stream, None if self.unread == "propagate" else tokens.any(1)
        )
        stream = _forecast_where(~tokens, forecast, read_where(tokens, read_mixer, stream))
        scores, forecast = self.scores(k, FFN, stream)
        tokens = (scores >= self.threshold) & is_valid
        return _forecast_where(~tokens, forecast, read_where(tokens, read_ffn, stream)), written, walk

    def scores(self, k: int, unit: int, stream: Stream) -> tuple[Float[Array, "B S"], Float[Array, "B S D"]]:
        """How much each token wants a unit of block ``routed[k]`` to be read, from 0 to 1, and the forecast
        of what it would add."""
        x = rms_norm(stream.hidden.astype(jnp.float32), jnp.ones(1), 1e-6)
        low = jnp.einsum("bsd,rd->bsr", x, self.down[k, unit])
        forecast = jnp.einsum("bsr,dr->bsd", low, self.up[k, unit])
        logits = x @ self.on_stream[k, unit] + forecast @ self.on_forecast[k, unit] + self.bias[k, unit]
        return jax.nn.sigmoid(logits), forecast


def _forecast_where(tokens: Array, forecast: Float[Array, "B S D"], stream: Stream) -> Stream:
    added = jnp.where(tokens[:, :, None], forecast, 0).astype(stream.hidden.dtype)
    return replace(stream, hidden=stream.hidden + added)


register_dataclass(
    InformedRouting,
    ["down", "up", "on_stream", "on_forecast", "bias", "threshold"],
    ["routed", "unread"],
)
