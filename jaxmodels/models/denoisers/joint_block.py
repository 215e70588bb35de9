"""Blocks over an image and a text at once: side by side with weights of their own, or as one sequence."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.condition import BLOCK_PARTS, NORM_PARTS, Condition, Modulation, Modulations, modulate
from jaxmodels.layers.joint_attention import JointAttention
from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import SequenceMixer, Window, ropes_of
from jaxmodels.models.block import layer_specs
from jaxmodels.models.modules import COMPUTE, Modules

# Of the second attention that some blocks of SD3.5 have, behind those of the block.
SECOND_PARTS = ("second_shift", "second_scale", "second_gate")
SINGLE_PARTS = ("shift", "scale", "gate")


@dataclass(frozen=True, kw_only=True)
class JointBlock:
    """Stream and context, each with adaptive norms, gates and a feed-forward of its own, attend to one
    another (https://arxiv.org/abs/2403.03206). The double block of SD3 and of Flux.

    Attributes:
        norm: the norm, without weights, in front of everything.
        mixer: the joint attention; where it ends the context, that has no feed-forward, and its modulations
            are a shift and a scale alone.
        second: an attention of the stream to itself, side by side with the joint one; None for none.
        ffn: the stream's feed-forward.
        context_ffn: the context's; None where the block ends it.
        modulation, context_modulation: of the stream and of the context.

    Raises:
        ValueError: a modulation makes other parts than are used, or the context ends in one layer alone.
    """

    norm: Norm
    mixer: JointAttention
    second: Attention | None = None
    ffn: FeedForward
    context_ffn: FeedForward | None
    modulation: Modulation
    context_modulation: Modulation

    def __post_init__(self) -> None:
        ends = self.mixer.ends_context
        if ends != (self.context_ffn is None):
            raise ValueError(
                f"JointBlock: ends_context={ends} of the mixer, but context_ffn={self.context_ffn}"
            )
        wanted = {
            "modulation": BLOCK_PARTS if self.second is None else (*BLOCK_PARTS, *SECOND_PARTS),
            "context_modulation": NORM_PARTS if ends else BLOCK_PARTS,
        }
        for name, parts in wanted.items():
            given = getattr(self, name).parts
            if set(given) != set(parts):
                raise ValueError(f"JointBlock: {name} must make {parts}, got {given}")

    @property
    def module_names(self) -> tuple[str, ...]:
        """The names of its parts, in the order in which they are computed."""
        second = () if self.second is None else ("second",)
        return ("mixer", *second, "ffn") + (("context_ffn",) if self.gives_context else ())

    @property
    def gives_context(self) -> bool:
        """Whether there is a stream of a text behind it."""
        return not self.mixer.ends_context

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.mixer, self.second)

    def spec(self) -> ParamTree:
        return layer_specs(
            norm=self.norm,
            modulation=self.modulation,
            context_modulation=self.context_modulation,
            mixer=self.mixer,
            second=self.second,
            ffn=self.ffn,
            context_ffn=self.context_ffn,
        )

    def flops(self, tokens: int, context: int) -> int:
        """FLOPs for `tokens` of an image and `context` tokens of a text."""
        own = self.ffn.flops_per_token(tokens)
        own += 0 if self.second is None else self.second.flops_per_token(tokens)
        other = 0 if self.context_ffn is None else self.context_ffn.flops_per_token(context)
        made = self.modulation.flops() + self.context_modulation.flops()
        return made + tokens * own + context * other + self.mixer.flops(tokens, context)

    def forward(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        context: Float[Array, "B T D"],
        condition: Condition,
        window: Window,
        context_window: Window,
        modules: Modules = COMPUTE,
    ) -> tuple[Float[Array, "B S D"], Float[Array, "B T D"] | None]:
        """Stream and context behind the block; None for a context that ends. modules: the hook at which the
        parts are computed; that of the mixer are the outputs of both."""
        made = self.modulation(params["modulation"], condition)
        made_context = self.context_modulation(params["context_modulation"], condition)
        normed, normed_context = self.norm(params["norm"], x), self.norm(params["norm"], context)
        prefix = "" if self.mixer.ends_context else "mixer_"
        own = modulate(normed, made["mixer_shift"], made["mixer_scale"])
        other = modulate(normed_context, made_context[f"{prefix}shift"], made_context[f"{prefix}scale"])
        mixed, mixed_context = modules(
            "mixer",
            lambda: self.mixer.forward(params["mixer"], own, other, window, context_window),
        )
        x = x + made["mixer_gate"] * mixed
        if self.second is not None:
            second, again = self.second, modulate(normed, made["second_shift"], made["second_scale"])
            found = modules("second", lambda: second.forward(params["second"], again, window))
            x = x + made["second_gate"] * found
        x = self._feed_forward(self.ffn, params, "ffn", x, made, modules)
        if mixed_context is None or self.context_ffn is None:
            return x, None
        context = context + made_context["mixer_gate"] * mixed_context
        return x, self._feed_forward(self.context_ffn, params, "context_ffn", context, made_context, modules)

    def _feed_forward(
        self,
        ffn: FeedForward,
        params: Params,
        name: str,
        x: Float[Array, "B S D"],
        made: Modulations,
        modules: Modules,
    ) -> Float[Array, "B S D"]:
        inside = modulate(self.norm(params["norm"], x), made["ffn_shift"], made["ffn_scale"])
        return x + made["ffn_gate"] * modules(name, lambda: ffn(params[name], inside))


@dataclass(frozen=True, kw_only=True)
class SingleBlock:
    """``x + gate * (mixer(y) + ffn(y))``, ``y = norm(x) * (1 + scale) + shift``, over text and image as one
    sequence: the single block of Flux, whose last projection is cut into those of mixer and feed-forward.

    Raises:
        ValueError: `modulation` makes other parts than `SINGLE_PARTS`.
    """

    norm: Norm
    mixer: SequenceMixer
    ffn: FeedForward
    modulation: Modulation

    def __post_init__(self) -> None:
        if set(self.modulation.parts) != set(SINGLE_PARTS):
            parts = self.modulation.parts
            raise ValueError(f"SingleBlock: modulation must make {SINGLE_PARTS}, got {parts}")

    @property
    def module_names(self) -> tuple[str, ...]:
        """The names of its parts, in the order in which they are computed."""
        return ("mixer", "ffn")

    @property
    def gives_context(self) -> bool:
        """Whether there is a stream of a text behind it: it is part of the one sequence."""
        return True

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.mixer)

    def spec(self) -> ParamTree:
        return layer_specs(norm=self.norm, modulation=self.modulation, mixer=self.mixer, ffn=self.ffn)

    def flops(self, tokens: int) -> int:
        """FLOPs for `tokens` of both together."""
        own = self.mixer.flops_per_token(tokens) + self.ffn.flops_per_token(tokens)
        return self.modulation.flops() + tokens * own

    def forward(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        condition: Condition,
        window: Window,
        modules: Modules = COMPUTE,
    ) -> Float[Array, "B S D"]:
        """The sequence behind the block. modules: the hook at which the parts are computed."""
        made = self.modulation(params["modulation"], condition)
        y = modulate(self.norm(params["norm"], x), made["shift"], made["scale"])
        mixed = modules("mixer", lambda: self.mixer.forward(params["mixer"], y, window))
        return x + made["gate"] * (mixed + modules("ffn", lambda: self.ffn(params["ffn"], y)))
