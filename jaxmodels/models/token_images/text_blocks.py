"""Blocks of models of codes that read a text: with adaptive norms, and without a feed-forward."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.condition import AdaptiveNorm, Condition
from jaxmodels.layers.cross_attention import CrossAttention
from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import FeedForward, activate
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree
from jaxmodels.layers.window import SequenceMixer, Window
from jaxmodels.models.block import layer_specs


@dataclass(frozen=True, kw_only=True)
class AdaptiveTextBlock:
    """``x + mixer(norm(x))``, ``x + cross(norm(x), text)``, ``x + ffn(norm(x))``, with adaptive norms."""

    mixer_norm: AdaptiveNorm
    mixer: SequenceMixer
    cross_norm: AdaptiveNorm
    cross: CrossAttention
    ffn_norm: AdaptiveNorm
    ffn: FeedForward

    def spec(self) -> ParamTree:
        return layer_specs(
            mixer_norm=self.mixer_norm,
            mixer=self.mixer,
            cross_norm=self.cross_norm,
            cross=self.cross,
            ffn_norm=self.ffn_norm,
            ffn=self.ffn,
        )

    def __call__(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        text: Float[Array, "B T C"],
        condition: Condition,
        window: Window,
    ) -> Float[Array, "B S D"]:
        y = self.mixer_norm(params["mixer_norm"], x, condition)
        x = x + self.mixer.forward(params["mixer"], y, window)
        y = self.cross_norm(params["cross_norm"], x, condition)
        x = x + self.cross.forward(params["cross"], y, text, window)
        return x + self.ffn(params["ffn"], self.ffn_norm(params["ffn_norm"], x, condition))


@dataclass(frozen=True, kw_only=True)
class TwofoldTextBlock:
    """``x + cross(norm(x), text)`` twice over, with weights of its own each time. Where the text has another
    width than the stream it is mapped first, ``silu(text) @ w_text``.

    Attributes:
        norm: in front of each attention.
        cross: the two attentions; their context has the stream's width.
        d_text: width of the text.
        bias: whether the mapping has a bias.
    """

    norm: Norm
    cross: CrossAttention
    d_text: int
    bias: bool = False

    def spec(self) -> ParamTree:
        tree: ParamTree = {
            name: {"norm": self.norm.spec(), "cross": self.cross.spec()} for name in ("first", "second")
        }
        d = self.cross.attention.d_model
        if self.d_text != d:
            tree["w_text"] = Param((d, self.d_text), ("embed", None), FanIn(self.d_text))
            if self.bias:
                tree["b_text"] = Param((d,), ("embed",), ZEROS)
        return tree

    def __call__(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        text: Float[Array, "B T C"],
        window: Window,
    ) -> Float[Array, "B S D"]:
        if "w_text" in params:
            text = linear(activate("silu", text), params["w_text"])
            text = text + params["b_text"] if self.bias else text
        for name in ("first", "second"):
            own = params[name]
            x = x + self.cross.forward(own["cross"], self.norm(own["norm"], x), text, window)
        return x
