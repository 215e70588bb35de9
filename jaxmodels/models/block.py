"""Blocks: how a mixer and a feed-forward are arranged around the residual stream."""

from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.moe.routing import KeepsExperts, RoutedFeedForward, RouterContext, Routing
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Mixer, Window, ropes_of
from jaxmodels.models.modules import COMPUTE, Modules


@struct.dataclass
class Stream:
    """What flows from block to block over a window of tokens.

    Attributes:
        hidden: [B, S, D], the residual stream, which may be wider than the parameters.
        embedded: [B, S, D], the token embeddings in the parameters' dtype, for blocks that look at them
            again.
        router_logits: f32[B, S, E], those of the latest mixture of experts (0 before the first), for routers
            that look at them; None in models without such.
        routings: what the mixtures passed so far decided, where it is asked for; else None.
        condition: [B, C] or [B, S, C], what the caller gives for blocks that go by it, see
            `ConditionedBlock`.
        kept, coming: what the feed-forward of the block that it is in keeps, and has asked for, see
            `KeepsExperts`; None for nothing.
    """

    hidden: jax.Array
    embedded: jax.Array
    router_logits: jax.Array | None = None
    routings: tuple[Routing, ...] | None = None
    condition: jax.Array | None = None
    kept: Any = None
    coming: Any = None

    def narrow(self) -> Float[Array, "B S D"]:
        """The residual stream in the parameters' dtype: what layers read."""
        return self.hidden.astype(self.embedded.dtype)

    def add(self, update: Float[Array, "B S D"]) -> "Stream":
        """The stream with `update` added to the residual stream."""
        return replace(self, hidden=self.hidden + update.astype(self.hidden.dtype))

    def note(self, routing: Routing) -> "Stream":
        """The stream behind a mixture of experts that decided `routing`."""
        logits = None if self.router_logits is None else routing.logits
        routings = None if self.routings is None else (*self.routings, routing)
        return replace(self, router_logits=logits, routings=routings)


class DecoderBlock(Protocol):
    """One layer of a decoder. Implementations are hashable frozen dataclasses.

    As with mixers, the work on a window is cut in two: `write` does what later windows depend on, `read` the
    rest. A block that is skipped for a window is written and not read.
    """

    @property
    def mixer(self) -> Mixer | None: ...
    @property
    def ffn(self) -> FeedForward | None: ...

    def spec(self) -> ParamTree: ...

    def state_spec(self, batch: int, capacity: int) -> Any:
        """The state of an empty history with room for `capacity` tokens; see `Stateful.state_spec`."""

    def parts(self, state: Any) -> tuple[tuple[Mixer, Any], ...]:
        """Its mixers, each with its part of a state."""

    def forward(self, params: Params, stream: Stream, window: Window) -> Stream:
        """The block over a whole sequence with no history. Differentiable, keeps no state."""

    def write(self, params: Params, stream: Stream, state: Any, window: Window) -> tuple[Any, Any]:
        """Shows the block a window that follows the history in `state`: (held, pending); see `Mixer`."""

    def read(self, params: Params, stream: Stream, held: Any, pending: Any, window: Window) -> Stream:
        """The stream behind the block, over the window that was written."""

    def commit(self, pending: Any, n: Array | None = None, path: Array | None = None) -> Any:
        """The state once the first `n` window tokens (of `path`, if given) are history."""


@runtime_checkable
class HalvedBlock(Protocol):
    """A block whose mixer and feed-forward follow each other, so that each can be left out on its own:
    `read` is `read_mixer`, then `read_ffn`, and `forward` is `forward_mixer`, then `read_ffn`."""

    def forward_mixer(self, params: Params, stream: Stream, window: Window) -> Stream:
        """The stream behind the mixer, over a whole sequence with no history."""

    def read_mixer(self, params: Params, stream: Stream, held: Any, pending: Any, window: Window) -> Stream:
        """The stream behind the mixer, over the window that was written."""

    def read_ffn(self, params: Params, stream: Stream, window: Window) -> Stream:
        """The stream behind the feed-forward."""


@runtime_checkable
class AnticipatingBlock(Protocol):
    """A block that can say what its feed-forward will be given, before its mixer has been read."""

    def expected_ffn_input(self, params: Params, stream: Stream) -> Float[Array, "B S D"]:
        """What it would be given if the mixer added nothing to the stream in front of the block."""


@runtime_checkable
class SharingBlock(Protocol):
    """A block that computes with parameters that it shares with other blocks, beside its own.

    Where its methods take parameters, the shared ones are under "shared"; see `Decoder.block_params`.
    """

    @property
    def shared(self) -> int:
        """Which of the decoder's sets of shared parameters it is given."""

    def shared_spec(self) -> ParamTree:
        """Those parameters, the same for all blocks with one number; `spec` has the others."""


@runtime_checkable
class ConditionedBlock(Protocol):
    """A block that goes by `Stream.condition`: of each row, or of each token."""

    @property
    def condition_width(self) -> int:
        """The length of the condition's last axis."""


@runtime_checkable
class Weighing(Protocol):
    """A block, or a mixer, that can say what the tokens of a window weigh each slot of its cache with."""

    def attention_weights(
        self, params: Params, stream: Any, pending: Any, window: Window
    ) -> Float[Array, "B S T"]:
        """f32, the mean over heads, of a window that was written; `stream` is what was read then."""


@runtime_checkable
class Costed(Protocol):
    """A layer or block that knows its cost."""

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included; 0 counts the weights alone."""


def block_flops(block: DecoderBlock, context: int) -> int:
    """FLOPs of one token that sees `context` tokens in a block: its own figure, or those of its layers.

    Raises ValueError where a layer does not know its cost.
    """
    if isinstance(block, Costed):
        return block.flops_per_token(context)
    total = 0
    for layer in (block.mixer, block.ffn):
        if layer is not None and not isinstance(layer, Costed):
            raise ValueError(
                f"{type(layer).__name__} does not know its cost: it has no flops_per_token(context)"
            )
        total += 0 if layer is None else layer.flops_per_token(context)
    return total


def peek(
    block: DecoderBlock, params: Params, stream: Stream, state: Any, window: Window
) -> tuple[Stream, Any]:
    """A block over a window that follows the history in `state`: (stream, what `commit` needs)."""
    held, pending = block.write(params, stream, state, window)
    return block.read(params, stream, held, pending, window), pending


def feed_forward(
    ffn: FeedForward,
    params: Params,
    x: Float[Array, "B S D"],
    stream: Stream,
    window: Window,
    modules: Modules = COMPUTE,
) -> tuple[Float[Array, "B S D"], Stream]:
    """A feed-forward's output for `x`, and the stream with its routing noted if it has any. modules: the hook
    at which it is computed, as "ffn"."""
    if not isinstance(ffn, RoutedFeedForward):
        return modules("ffn", lambda: ffn(params, x)), stream
    context = RouterContext(stream.router_logits, window.is_valid)
    if stream.kept is not None and isinstance(ffn, KeepsExperts):
        given = (params, x, context, stream.kept, stream.coming)
        y, routing, kept = modules("ffn", lambda: ffn.routed_with(*given))
        return y, replace(stream.note(routing), kept=kept)
    y, routing = modules("ffn", lambda: ffn.routed(params, x, context))
    return y, stream.note(routing)


@dataclass(frozen=True, kw_only=True)
class Block:
    """``x + mixer(norm(x))``, then ``x + ffn(norm(x))``.

    Either layer may be missing, and either norm of each: `mixer_norm` and `ffn_norm` stand before the layer,
    `mixer_post_norm` and `ffn_post_norm` between it and the sum. `residual_scale` multiplies what is added.

    Raises:
        ValueError: neither mixer nor ffn is given, or a norm without its layer.
    """

    mixer_norm: Norm | None = None
    mixer: Mixer | None = None
    mixer_post_norm: Norm | None = None
    ffn_norm: Norm | None = None
    ffn: FeedForward | None = None
    ffn_post_norm: Norm | None = None
    residual_scale: float = 1.0

    def __post_init__(self) -> None:
        if self.mixer is None and self.ffn is None:
            raise ValueError("Block: give a mixer, an ffn, or both")
        for name in ("mixer", "ffn"):
            norms = [n for n in (f"{name}_norm", f"{name}_post_norm") if getattr(self, n) is not None]
            if getattr(self, name) is None and norms:
                raise ValueError(f"Block: {norms[0]} is given without {name}; give both or neither")

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.mixer)

    def spec(self) -> ParamTree:
        return layer_specs(
            mixer_norm=self.mixer_norm,
            mixer=self.mixer,
            mixer_post_norm=self.mixer_post_norm,
            ffn_norm=self.ffn_norm,
            ffn=self.ffn,
            ffn_post_norm=self.ffn_post_norm,
        )

    def state_spec(self, batch: int, capacity: int) -> Any:
        return None if self.mixer is None else self.mixer.state_spec(batch, capacity)

    def parts(self, state: Any) -> tuple[tuple[Mixer, Any], ...]:
        return () if self.mixer is None else ((self.mixer, state),)

    def forward(self, params: Params, stream: Stream, window: Window) -> Stream:
        return self.read_ffn(params, self.forward_mixer(params, stream, window), window)

    def forward_mixer(self, params: Params, stream: Stream, window: Window) -> Stream:
        if self.mixer is None:
            return stream
        mixed = self.mixer.forward(params["mixer"], self._before(params, "mixer", stream), window)
        return self._after(params, "mixer", stream, mixed)

    def write(self, params: Params, stream: Stream, state: Any, window: Window) -> tuple[Any, Any]:
        if self.mixer is None:
            return None, None
        return self.mixer.write(params["mixer"], self._before(params, "mixer", stream), state, window)

    def read(self, params: Params, stream: Stream, held: Any, pending: Any, window: Window) -> Stream:
        return self.read_ffn(params, self.read_mixer(params, stream, held, pending, window), window)

    def read_mixer(self, params: Params, stream: Stream, held: Any, pending: Any, window: Window) -> Stream:
        if self.mixer is None:
            return stream
        mixed = self.mixer.read(params["mixer"], held, pending, window)
        return self._after(params, "mixer", stream, mixed)

    def commit(self, pending: Any, n: Array | None = None, path: Array | None = None) -> Any:
        return None if self.mixer is None else self.mixer.commit(pending, n, path)

    def attention_weights(
        self, params: Params, stream: Stream, pending: Any, window: Window
    ) -> Float[Array, "B S T"]:
        """See `Weighing`. Raises ValueError where the mixer weighs no single tokens."""
        if not isinstance(self.mixer, Weighing):
            raise ValueError(
                f"attention_weights: {type(self.mixer).__name__} does not weigh single tokens of its history"
            )
        x = self._before(params, "mixer", stream)
        return self.mixer.attention_weights(params["mixer"], x, pending, window)

    def expected_ffn_input(self, params: Params, stream: Stream) -> Float[Array, "B S D"]:
        return self._before(params, "ffn", stream)

    def read_ffn(self, params: Params, stream: Stream, window: Window) -> Stream:
        if self.ffn is None:
            return stream
        x = self._before(params, "ffn", stream)
        update, stream = feed_forward(self.ffn, params["ffn"], x, stream, window)
        return self._after(params, "ffn", stream, update)

    def _before(self, params: Params, name: str, stream: Stream) -> Float[Array, "B S D"]:
        norm: Norm | None = getattr(self, f"{name}_norm")
        return stream.narrow() if norm is None else norm(params[f"{name}_norm"], stream.narrow())

    def _after(self, params: Params, name: str, stream: Stream, update: Float[Array, "B S D"]) -> Stream:
        norm: Norm | None = getattr(self, f"{name}_post_norm")
        if norm is not None:
            update = norm(params[f"{name}_post_norm"], update)
        return stream.add(update if self.residual_scale == 1.0 else update * self.residual_scale)


@dataclass(frozen=True, kw_only=True)
class ParallelBlock:
    """``x + mixer(mixer_norm(x)) + ffn(ffn_norm(x))``; with `ffn_norm` None both read ``mixer_norm(x)``."""

    mixer_norm: Norm
    mixer: Mixer
    ffn_norm: Norm | None = None
    ffn: FeedForward

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.mixer)

    def spec(self) -> ParamTree:
        return layer_specs(mixer_norm=self.mixer_norm, mixer=self.mixer, ffn_norm=self.ffn_norm, ffn=self.ffn)

    def state_spec(self, batch: int, capacity: int) -> Any:
        return self.mixer.state_spec(batch, capacity)

    def parts(self, state: Any) -> tuple[tuple[Mixer, Any], ...]:
        return ((self.mixer, state),)

    def forward(self, params: Params, stream: Stream, window: Window) -> Stream:
        x = self.mixer_norm(params["mixer_norm"], stream.narrow())
        return self._join(params, stream, self.mixer.forward(params["mixer"], x, window), window)

    def write(self, params: Params, stream: Stream, state: Any, window: Window) -> tuple[Any, Any]:
        x = self.mixer_norm(params["mixer_norm"], stream.narrow())
        return self.mixer.write(params["mixer"], x, state, window)

    def read(self, params: Params, stream: Stream, held: Any, pending: Any, window: Window) -> Stream:
        return self._join(params, stream, self.mixer.read(params["mixer"], held, pending, window), window)

    def commit(self, pending: Any, n: Array | None = None, path: Array | None = None) -> Any:
        return self.mixer.commit(pending, n, path)

    def expected_ffn_input(self, params: Params, stream: Stream) -> Float[Array, "B S D"]:
        norm, name = (self.mixer_norm, "mixer_norm") if self.ffn_norm is None else (self.ffn_norm, "ffn_norm")
        return norm(params[name], stream.narrow())

    def _join(self, params: Params, stream: Stream, mixed: Float[Array, "B S D"], window: Window) -> Stream:
        x = self.expected_ffn_input(params, stream)
        update, stream = feed_forward(self.ffn, params["ffn"], x, stream, window)
        return stream.add(mixed + update)


@dataclass(frozen=True, kw_only=True)
class NormedResidualBlock:
    """``x = norm(x)``, then ``alpha * x + beta * mixer(x)``; the same with the ffn (MiniMax).

    Unlike in a `Block`, what is carried past a layer is normalised too, and both summands have a factor.
    """

    mixer_norm: Norm
    mixer: Mixer
    ffn_norm: Norm
    ffn: FeedForward
    mixer_alpha: float = 1.0
    mixer_beta: float = 1.0
    ffn_alpha: float = 1.0
    ffn_beta: float = 1.0

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.mixer)

    def spec(self) -> ParamTree:
        return layer_specs(mixer_norm=self.mixer_norm, mixer=self.mixer, ffn_norm=self.ffn_norm, ffn=self.ffn)

    def state_spec(self, batch: int, capacity: int) -> Any:
        return self.mixer.state_spec(batch, capacity)

    def parts(self, state: Any) -> tuple[tuple[Mixer, Any], ...]:
        return ((self.mixer, state),)

    def forward(self, params: Params, stream: Stream, window: Window) -> Stream:
        x = self.mixer_norm(params["mixer_norm"], stream.narrow())
        mixed = self.mixer.forward(params["mixer"], x, window)
        return self._join(params, stream, x, mixed, window)

    def write(self, params: Params, stream: Stream, state: Any, window: Window) -> tuple[Any, Any]:
        x = self.mixer_norm(params["mixer_norm"], stream.narrow())
        return self.mixer.write(params["mixer"], x, state, window)

    def read(self, params: Params, stream: Stream, held: Any, pending: Any, window: Window) -> Stream:
        x = self.mixer_norm(params["mixer_norm"], stream.narrow())
        mixed = self.mixer.read(params["mixer"], held, pending, window)
        return self._join(params, stream, x, mixed, window)

    def commit(self, pending: Any, n: Array | None = None, path: Array | None = None) -> Any:
        return self.mixer.commit(pending, n, path)

    def expected_ffn_input(self, params: Params, stream: Stream) -> Float[Array, "B S D"]:
        x = self.mixer_alpha * self.mixer_norm(params["mixer_norm"], stream.narrow())
        return self.ffn_norm(params["ffn_norm"], x)

    def _join(
        self,
        params: Params,
        stream: Stream,
        x: Float[Array, "B S D"],
        mixed: Float[Array, "B S D"],
        window: Window,
    ) -> Stream:
        x = self.ffn_norm(params["ffn_norm"], self.mixer_alpha * x + self.mixer_beta * mixed)
        fed, stream = feed_forward(self.ffn, params["ffn"], x, stream, window)
        return replace(stream, hidden=(self.ffn_alpha * x + self.ffn_beta * fed).astype(stream.hidden.dtype))


def layer_specs(**layers: Any) -> ParamTree:
    """The specs of those of a block's named layers that are not None."""
    return {name: layer.spec() for name, layer in layers.items() if layer is not None}
