"""Self-conditioning: what a model thought of a canvas in its last step is shown to it in the next."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.spec import Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class SelfConditioning:
    """``post_norm(x + ffn(norm(guess)))``: embeddings x of what stands on the canvas, told of the last guess.

    The idea is of https://arxiv.org/abs/2208.04202; this form is DiffusionGemma's.

    Attributes:
        norm: of the guess, an embedding for each place: the mean of the vocabulary's under the last step's
            distribution. Where there was no step yet it is 0, and so must be ``ffn(norm(0))``.
        ffn: applied to it.
        post_norm: of the sum.
    """

    norm: Norm
    ffn: FeedForward
    post_norm: Norm

    def spec(self) -> ParamTree:
        return {"norm": self.norm.spec(), "ffn": self.ffn.spec(), "post_norm": self.post_norm.spec()}

    def __call__(
        self, params: Params, x: Float[Array, "B L D"], guess: Float[Array, "B L D"]
    ) -> Float[Array, "B L D"]:
        told = self.ffn(params["ffn"], self.norm(params["norm"], guess))
        return self.post_norm(params["post_norm"], x + told)
