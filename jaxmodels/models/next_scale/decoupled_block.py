"""A block that mixes within a window, then across windows: one layer for each."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from jaxmodels.layers.condition import Modulation, Modulations, modulate
from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Mixer, Window, peek, ropes_of
from jaxmodels.models.block import Stream, feed_forward, layer_specs

# A shift, a scale and a gate for each of its layers.
DECOUPLED_PARTS = tuple(
    f"{layer}_{part}" for layer in ("mixer", "across", "ffn") for part in ("shift", "scale", "gate")
)


@dataclass(frozen=True, kw_only=True)
class DecoupledBlock:
    """``x + gate * mixer(norm(x) * (1 + scale) + shift)``, then the same with `across`, then with the ffn: an
    `AdaptiveBlock` of three layers (M-VAR, https://arxiv.org/abs/2411.10433).

    `mixer` is attention among the tokens of a scale; `across` carries what is known of earlier scales, as a
    state of one size. What `across` is shown depends on the mixer's output: a window that the block is
    skipped for is written with the work of both.

    Raises:
        ValueError: `modulation` makes other parts than `DECOUPLED_PARTS`.
    """

    mixer_norm: Norm
    mixer: Mixer
    across_norm: Norm
    across: Mixer
    ffn_norm: Norm
    ffn: FeedForward
    modulation: Modulation

    def __post_init__(self) -> None:
        if set(self.modulation.parts) != set(DECOUPLED_PARTS):
            parts = self.modulation.parts
            raise ValueError(f"DecoupledBlock: modulation must make {DECOUPLED_PARTS}, got {parts}")

    @property
    def condition_width(self) -> int:
        """The length of the condition's last axis."""
        return self.modulation.d_condition

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.mixer, self.across)

    def spec(self) -> ParamTree:
        return layer_specs(
            modulation=self.modulation,
            mixer_norm=self.mixer_norm,
            mixer=self.mixer,
            across_norm=self.across_norm,
            across=self.across,
            ffn_norm=self.ffn_norm,
            ffn=self.ffn,
        )

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens and has a condition of its own; 0 counts the weights
        alone."""
        layers = (self.mixer, self.across, self.ffn)
        return self.modulation.flops() + sum(layer.flops_per_token(context) for layer in layers)

    def state_spec(self, batch: int, capacity: int) -> tuple[Any, Any]:
        return self.mixer.state_spec(batch, capacity), self.across.state_spec(batch, capacity)

    def parts(self, state: tuple[Any, Any]) -> tuple[tuple[Mixer, Any], ...]:
        return (self.mixer, state[0]), (self.across, state[1])

    def forward(self, params: Params, stream: Stream, window: Window) -> Stream:
        made = self._modulations(params, stream)
        x = self._before(params, "mixer", stream, made)
        stream = stream.add(made["mixer_gate"] * self.mixer.forward(params["mixer"], x, window))
        x = self._before(params, "across", stream, made)
        stream = stream.add(made["across_gate"] * self.across.forward(params["across"], x, window))
        return self._feed_forward(params, stream, made, window)

    def write(
        self, params: Params, stream: Stream, state: tuple[Any, Any], window: Window
    ) -> tuple[Any, tuple[Any, Any]]:
        """Held are what the mixer adds, what `across` reads with, and the modulations."""
        made = self._modulations(params, stream)
        x = self._before(params, "mixer", stream, made)
        mixed, within = peek(self.mixer, params["mixer"], x, state[0], window)
        update = made["mixer_gate"] * mixed
        x = self._before(params, "across", stream.add(update), made)
        held, pending = self.across.write(params["across"], x, state[1], window)
        return (update, held, made), (within, pending)

    def read(
        self, params: Params, stream: Stream, held: Any, pending: tuple[Any, Any], window: Window
    ) -> Stream:
        update, inside, made = held
        stream = stream.add(update)
        crossed = self.across.read(params["across"], inside, pending[1], window)
        stream = stream.add(made["across_gate"] * crossed)
        return self._feed_forward(params, stream, made, window)

    def commit(
        self, pending: tuple[Any, Any], n: Array | None = None, path: Array | None = None
    ) -> tuple[Any, Any]:
        return self.mixer.commit(pending[0], n, path), self.across.commit(pending[1], n, path)

    def _modulations(self, params: Params, stream: Stream) -> Modulations:
        assert stream.condition is not None
        return self.modulation(params["modulation"], stream.condition.astype(stream.embedded.dtype))

    def _before(self, params: Params, layer: str, stream: Stream, made: Modulations) -> Float[Array, "B S D"]:
        norm: Norm = getattr(self, f"{layer}_norm")
        normed = norm(params[f"{layer}_norm"], stream.narrow())
        return modulate(normed, made[f"{layer}_shift"], made[f"{layer}_scale"])

    def _feed_forward(self, params: Params, stream: Stream, made: Modulations, window: Window) -> Stream:
        x = self._before(params, "ffn", stream, made)
        fed, stream = feed_forward(self.ffn, params["ffn"], x, stream, window)
        return stream.add(made["ffn_gate"] * fed)
