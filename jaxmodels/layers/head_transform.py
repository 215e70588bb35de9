"""What stands between the last hidden state and the scores over the vocabulary in masked language models."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import activate, check_activation
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.spec import ZEROS, Param, Params, ParamTree, matrix


@dataclass(frozen=True, kw_only=True)
class HeadTransform:
    """``norm(activation(x @ w + b))``: the transform of BERT's head (https://arxiv.org/abs/1810.04805).

    Raises:
        ValueError: `activation` is not in `ACTIVATIONS`.
    """

    d_model: int
    norm: Norm
    activation: str = "gelu"
    bias: bool = True

    def __post_init__(self) -> None:
        check_activation(self.activation)

    def spec(self) -> ParamTree:
        d = self.d_model
        tree: ParamTree = {"w": matrix((d, d), (None, "embed")), "norm": self.norm.spec()}
        return tree | {"b": Param((d,), (None,), ZEROS)} if self.bias else tree

    def flops_per_token(self) -> int:
        """FLOPs of one token."""
        return 2 * self.d_model**2

    def __call__(self, params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        y = linear(x, params["w"])
        if self.bias:
            y = y + params["b"]
        return self.norm(params["norm"], activate(self.activation, y))
