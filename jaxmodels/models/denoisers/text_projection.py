"""What brings the tokens of a text to the width of a denoiser's stream."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.linear import linear
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class TextProjection:
    """``tokens @ w.T + b``: the context of blocks that hold image and text side by side.

    Attributes:
        d_model: width of the stream.
        width: width of the text's tokens.
        bias: whether `b` is added.
    """

    d_model: int
    width: int
    bias: bool = True

    def spec(self) -> ParamTree:
        tree: ParamTree = {"w": Param((self.d_model, self.width), ("embed", None), FanIn(self.width))}
        return tree | {"b": Param((self.d_model,), ("embed",), ZEROS)} if self.bias else tree

    def flops_per_token(self) -> int:
        """FLOPs of one token of the text."""
        return 2 * self.d_model * self.width

    def __call__(self, params: Params, tokens: Float[Array, "B T C"]) -> Float[Array, "B T D"]:
        made = linear(tokens.astype(params["w"].dtype), params["w"])
        return made + params["b"] if self.bias else made
