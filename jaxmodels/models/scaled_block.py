"""A block whose output is multiplied by a learned number."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jaxtyping import Array

from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import ONES, Param, Params, ParamTree
from jaxmodels.layers.window import Mixer, Window, ropes_of
from jaxmodels.models.block import DecoderBlock, Stream, block_flops

SCALE = "scale"


@dataclass(frozen=True, kw_only=True)
class ScaledBlock:
    """``scale * block(x)``: the residual stream behind `block` times one learned number (Gemma 4's layer
    scalars).

    The parameters are those of `block`, with "scale" beside them.
    """

    block: DecoderBlock

    @property
    def mixer(self) -> Mixer | None:
        return self.block.mixer

    @property
    def ffn(self) -> FeedForward | None:
        return self.block.ffn

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.block)

    def spec(self) -> ParamTree:
        return {**self.block.spec(), SCALE: Param((1,), (None,), ONES)}

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included; 0 counts the weights alone."""
        return block_flops(self.block, context)

    def state_spec(self, batch: int, capacity: int) -> Any:
        return self.block.state_spec(batch, capacity)

    def parts(self, state: Any) -> tuple[tuple[Mixer, Any], ...]:
        return self.block.parts(state)

    def forward(self, params: Params, stream: Stream, window: Window) -> Stream:
        return _times(params, self.block.forward(_inner(params), stream, window))

    def write(self, params: Params, stream: Stream, state: Any, window: Window) -> tuple[Any, Any]:
        return self.block.write(_inner(params), stream, state, window)

    def read(self, params: Params, stream: Stream, held: Any, pending: Any, window: Window) -> Stream:
        return _times(params, self.block.read(_inner(params), stream, held, pending, window))

    def commit(self, pending: Any, n: Array | None = None, path: Array | None = None) -> Any:
        return self.block.commit(pending, n, path)


def _inner(params: Mapping[str, Any]) -> Params:
    return {name: leaf for name, leaf in params.items() if name != SCALE}


def _times(params: Params, stream: Stream) -> Stream:
    return replace(stream, hidden=stream.hidden * params[SCALE].astype(stream.hidden.dtype))
