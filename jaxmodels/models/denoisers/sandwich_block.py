"""A block with norms on both sides of its layers, which a condition scales and gates but does not shift."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.condition import Condition, Modulation, Modulations
from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import SequenceMixer, Window, ropes_of
from jaxmodels.models.block import layer_specs
from jaxmodels.models.modules import COMPUTE, Modules

SANDWICH_PARTS = ("mixer_scale", "mixer_gate", "ffn_scale", "ffn_gate")


@dataclass(frozen=True, kw_only=True)
class SandwichBlock:
    """``x + tanh(gate) * norm(mixer(norm(x) * (1 + scale)))``, then the same with the ffn (Z-Image,
    https://arxiv.org/abs/2511.22699). It has no history.

    Attributes:
        mixer_norm, mixer, mixer_post_norm: the mixer, and the norms in front of it and behind it.
        ffn_norm, ffn, ffn_post_norm: the feed-forward, likewise.
        modulation: makes scales and gates; None for a block that goes by no condition, whose are 0 and 1.

    Raises:
        ValueError: `modulation` makes other parts than `SANDWICH_PARTS`.
    """

    mixer_norm: Norm
    mixer: SequenceMixer
    mixer_post_norm: Norm
    ffn_norm: Norm
    ffn: FeedForward
    ffn_post_norm: Norm
    modulation: Modulation | None

    def __post_init__(self) -> None:
        if self.modulation is not None and set(self.modulation.parts) != set(SANDWICH_PARTS):
            parts = self.modulation.parts
            raise ValueError(f"SandwichBlock: modulation must make {SANDWICH_PARTS}, got {parts}")

    @property
    def module_names(self) -> tuple[str, ...]:
        """The names of its parts, in the order in which they are computed."""
        return ("mixer", "ffn")

    @property
    def gives_context(self) -> bool:
        """Whether there is a stream of a text behind it."""
        return True

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.mixer)

    def spec(self) -> ParamTree:
        return layer_specs(
            modulation=self.modulation,
            mixer_norm=self.mixer_norm,
            mixer=self.mixer,
            mixer_post_norm=self.mixer_post_norm,
            ffn_norm=self.ffn_norm,
            ffn=self.ffn,
            ffn_post_norm=self.ffn_post_norm,
        )

    def flops(self, tokens: int) -> int:
        """FLOPs for `tokens`."""
        own = self.mixer.flops_per_token(tokens) + self.ffn.flops_per_token(tokens)
        return tokens * own + (0 if self.modulation is None else self.modulation.flops())

    def forward(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        condition: Condition | None,
        window: Window,
        modules: Modules = COMPUTE,
    ) -> Float[Array, "B S D"]:
        """The sequence behind the block. modules: the hook at which the parts are computed."""
        made: Modulations | None = None
        if self.modulation is not None:
            assert condition is not None
            made = self.modulation(params["modulation"], condition)

        def joined(x: Float[Array, "B S D"], name: str) -> Float[Array, "B S D"]:
            inside = getattr(self, f"{name}_norm")(params[f"{name}_norm"], x)
            if made is not None:
                inside = inside * (1 + made[f"{name}_scale"])
            out = modules(name, lambda: self._between_norms(params, name, inside, window))
            return x + (out if made is None else jnp.tanh(made[f"{name}_gate"]) * out)

        return joined(joined(x, "mixer"), "ffn")

    def _between_norms(
        self, params: Params, name: str, x: Float[Array, "B S D"], window: Window
    ) -> Float[Array, "B S D"]:
        if name == "mixer":
            return self.mixer_post_norm(
                params["mixer_post_norm"], self.mixer.forward(params["mixer"], x, window)
            )
        return self.ffn_post_norm(params["ffn_post_norm"], self.ffn(params["ffn"], x))
