"""A block that normalises the residual stream behind each sum, as the first Transformers did."""

from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Array, Float

from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Mixer, Window, ropes_of
from jaxmodels.models.block import Stream, feed_forward, layer_specs


@dataclass(frozen=True, kw_only=True)
class PostNormBlock:
    """``x = mixer_norm(x + mixer(x))``, then ``x = ffn_norm(x + ffn(x))``.

    The post-norm arrangement of https://arxiv.org/abs/1706.03762 and BERT. What leaves the block is
    normalised, so that a model of such blocks has no final norm.
    """

    mixer: Mixer
    mixer_norm: Norm
    ffn: FeedForward
    ffn_norm: Norm

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.mixer)

    def spec(self) -> ParamTree:
        return layer_specs(mixer=self.mixer, mixer_norm=self.mixer_norm, ffn=self.ffn, ffn_norm=self.ffn_norm)

    def state_spec(self, batch: int, capacity: int) -> Any:
        return self.mixer.state_spec(batch, capacity)

    def parts(self, state: Any) -> tuple[tuple[Mixer, Any], ...]:
        return ((self.mixer, state),)

    def forward(self, params: Params, stream: Stream, window: Window) -> Stream:
        mixed = self.mixer.forward(params["mixer"], stream.narrow(), window)
        return self._join(params, stream, mixed, window)

    def write(self, params: Params, stream: Stream, state: Any, window: Window) -> tuple[Any, Any]:
        return self.mixer.write(params["mixer"], stream.narrow(), state, window)

    def read(self, params: Params, stream: Stream, held: Any, pending: Any, window: Window) -> Stream:
        mixed = self.mixer.read(params["mixer"], held, pending, window)
        return self._join(params, stream, mixed, window)

    def commit(self, pending: Any, n: Array | None = None, path: Array | None = None) -> Any:
        return self.mixer.commit(pending, n, path)

    def _join(self, params: Params, stream: Stream, mixed: Float[Array, "B S D"], window: Window) -> Stream:
        stream = _normalised(stream.add(mixed), self.mixer_norm, params["mixer_norm"])
        fed, stream = feed_forward(self.ffn, params["ffn"], stream.narrow(), stream, window)
        return _normalised(stream.add(fed), self.ffn_norm, params["ffn_norm"])


def _normalised(stream: Stream, norm: Norm, params: Params) -> Stream:
    """The stream with its residual stream normalised, in the dtype that it has."""
    return replace(stream, hidden=norm(params, stream.hidden))
