"""A block that joins the stream with one from further up before it goes on."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree
from jaxmodels.layers.window import SequenceMixer, Window
from jaxmodels.models.block import layer_specs
from jaxmodels.models.modules import COMPUTE, Modules


@dataclass(frozen=True, kw_only=True)
class SkipBlock:
    """``x + mixer(norm(x))``, then ``x + ffn(norm(x))``; before both, where it joins streams, ``x`` becomes
    ``w [x, earlier] + b`` (U-ViT, https://arxiv.org/abs/2209.12152). It has no history.

    Attributes:
        mixer_norm, mixer, ffn_norm, ffn: the layers and what stands in front of them.
        joins: whether it is given an earlier stream.
    """

    mixer_norm: LayerNorm
    mixer: SequenceMixer
    ffn_norm: LayerNorm
    ffn: FeedForward
    joins: bool = False

    @property
    def module_names(self) -> tuple[str, ...]:
        """The names of its parts, in the order in which they are computed."""
        return ("mixer", "ffn")

    @property
    def gives_context(self) -> bool:
        """Whether there is a stream beside the canvas's behind it: that of time and class."""
        return True

    def spec(self) -> ParamTree:
        tree = layer_specs(mixer_norm=self.mixer_norm, mixer=self.mixer, ffn_norm=self.ffn_norm, ffn=self.ffn)
        d = self.mixer_norm.dim
        joined: ParamTree = {
            "w": Param((d, 2 * d), ("embed", None), FanIn(2 * d)),
            "b": Param((d,), ("embed",), ZEROS),
        }
        return tree | {"skip": joined} if self.joins else tree

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included."""
        joined = 4 * self.mixer_norm.dim**2 if self.joins else 0
        return joined + self.mixer.flops_per_token(context) + self.ffn.flops_per_token(context)

    def forward(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        earlier: Float[Array, "B S D"] | None,
        window: Window,
        modules: Modules = COMPUTE,
    ) -> Float[Array, "B S D"]:
        """The sequence behind the block. earlier: what it joins; modules: the hook at which the parts are
        computed."""
        if earlier is not None:
            both = jnp.concatenate([x, earlier], axis=-1)
            x = linear(both, params["skip"]["w"]) + params["skip"]["b"]
        own = self.mixer_norm(params["mixer_norm"], x)
        x = x + modules("mixer", lambda: self.mixer.forward(params["mixer"], own, window))
        inside = self.ffn_norm(params["ffn_norm"], x)
        return x + modules("ffn", lambda: self.ffn(params["ffn"], inside))
