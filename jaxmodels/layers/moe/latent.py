"""A narrower space in which routed experts work."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.linear import linear
from jaxmodels.layers.spec import ZEROS, Param, Params, ParamTree, matrix


@dataclass(frozen=True, kw_only=True)
class LatentSpace:
    """``up(sum of weight * expert(down(x)))``: to the experts and back, tokens travel in `dim` features.

    Router and shared feed-forward stay in the model's width. From the layout of Nemotron 3's mixtures in
    `transformers` (``fc1_latent_proj``, ``fc2_latent_proj``).

    Attributes:
        d_model: the model's width.
        dim: the experts' width.
        bias: whether both projections have biases.

    Raises:
        ValueError: `dim` is below 1.
    """

    d_model: int
    dim: int
    bias: bool = False

    def __post_init__(self) -> None:
        if self.dim < 1:
            raise ValueError(f"LatentSpace: dim={self.dim} must be at least 1")

    def spec(self) -> ParamTree:
        d, r = self.d_model, self.dim
        tree: ParamTree = {
            "w_down": matrix((r, d), ("latent", "embed")),
            "w_up": matrix((d, r), ("embed", "latent")),
        }
        if self.bias:
            tree |= {"b_down": Param((r,), ("latent",), ZEROS), "b_up": Param((d,), ("embed",), ZEROS)}
        return tree

    @property
    def flops_per_token(self) -> int:
        return 4 * self.d_model * self.dim

    def down(self, params: Params, x: Float[Array, "B S D"]) -> Float[Array, "B S R"]:
        """What the experts see of x."""
        y = linear(x, params["w_down"])
        return y + params["b_down"] if self.bias else y

    def up(self, params: Params, y: Float[Array, "B S R"]) -> Float[Array, "B S D"]:
        """What the model sees of the experts' sum."""
        x = linear(y, params["w_up"])
        return x + params["b_up"] if self.bias else x
