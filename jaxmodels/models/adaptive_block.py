"""A block whose norms and gates go by a condition, such as the time of a denoising step."""

from dataclasses import dataclass
from typing import Any

from jaxtyping import Array, Float

from jaxmodels.layers.condition import BLOCK_PARTS, Modulation, Modulations, modulate
from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import Mixer, Window, ropes_of
from jaxmodels.models.block import Stream, feed_forward, layer_specs
from jaxmodels.models.modules import COMPUTE, Modules


@dataclass(frozen=True, kw_only=True)
class AdaptiveBlock:
    """``x + gate * mixer(norm(x) * (1 + scale) + shift)``, then the same with the ffn (adaLN, see
    `ProjectedModulation`). All six are made of `Stream.condition`.

    It stands in denoisers, over a whole canvas at once, and in decoders, whose history is then that of the
    conditions that its tokens were committed under.

    Raises:
        ValueError: `modulation` makes other parts than `BLOCK_PARTS`.
    """

    mixer_norm: Norm
    mixer: Mixer
    ffn_norm: Norm
    ffn: FeedForward
    modulation: Modulation

    def __post_init__(self) -> None:
        if set(self.modulation.parts) != set(BLOCK_PARTS):
            raise ValueError(
                f"AdaptiveBlock: modulation must make {BLOCK_PARTS}, got {self.modulation.parts}"
            )

    @property
    def condition_width(self) -> int:
        """The length of the condition's last axis."""
        return self.modulation.d_condition

    @property
    def module_names(self) -> tuple[str, ...]:
        """The names of its parts, in the order in which they are computed."""
        return ("mixer", "ffn")

    @property
    def gives_context(self) -> bool:
        """Whether there is a stream of a text behind it."""
        return False

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.mixer)

    def spec(self) -> ParamTree:
        return layer_specs(
            modulation=self.modulation,
            mixer_norm=self.mixer_norm,
            mixer=self.mixer,
            ffn_norm=self.ffn_norm,
            ffn=self.ffn,
        )

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens and has a condition of its own; 0 counts the weights
        alone."""
        return self.modulation.flops() + self.layer_flops_per_token(context)

    def layer_flops_per_token(self, context: int) -> int:
        """`flops_per_token` without the modulations, which whole rows may share."""
        return self.mixer.flops_per_token(context) + self.ffn.flops_per_token(context)

    def state_spec(self, batch: int, capacity: int) -> Any:
        return self.mixer.state_spec(batch, capacity)

    def parts(self, state: Any) -> tuple[tuple[Mixer, Any], ...]:
        return ((self.mixer, state),)

    def forward(self, params: Params, stream: Stream, window: Window, modules: Modules = COMPUTE) -> Stream:
        """The block over a whole window. modules: the hook at which mixer and feed-forward are computed."""
        made = self._modulations(params, stream)
        x = self._before_mixer(params, stream, made)
        mixed = modules("mixer", lambda: self.mixer.forward(params["mixer"], x, window))
        return self._join(params, stream, mixed, made, window, modules)

    def write(self, params: Params, stream: Stream, state: Any, window: Window) -> tuple[Any, Any]:
        """Held are what the mixer reads with, and the modulations."""
        made = self._modulations(params, stream)
        x = self._before_mixer(params, stream, made)
        held, pending = self.mixer.write(params["mixer"], x, state, window)
        return (held, made), pending

    def read(self, params: Params, stream: Stream, held: Any, pending: Any, window: Window) -> Stream:
        inside, made = held
        mixed = self.mixer.read(params["mixer"], inside, pending, window)
        return self._join(params, stream, mixed, made, window)

    def commit(self, pending: Any, n: Array | None = None, path: Array | None = None) -> Any:
        return self.mixer.commit(pending, n, path)

    def _modulations(self, params: Params, stream: Stream) -> Modulations:
        assert stream.condition is not None
        return self.modulation(params["modulation"], stream.condition.astype(stream.embedded.dtype))

    def _before_mixer(self, params: Params, stream: Stream, made: Modulations) -> Float[Array, "B S D"]:
        normed = self.mixer_norm(params["mixer_norm"], stream.narrow())
        return modulate(normed, made["mixer_shift"], made["mixer_scale"])

    def _join(
        self,
        params: Params,
        stream: Stream,
        mixed: Float[Array, "B S D"],
        made: Modulations,
        window: Window,
        modules: Modules = COMPUTE,
    ) -> Stream:
        stream = stream.add(made["mixer_gate"] * mixed)
        normed = self.ffn_norm(params["ffn_norm"], stream.narrow())
        x = modulate(normed, made["ffn_shift"], made["ffn_scale"])
        fed, stream = feed_forward(self.ffn, params["ffn"], x, stream, window, modules)
        return stream.add(made["ffn_gate"] * fed)
