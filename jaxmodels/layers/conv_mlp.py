"""A feed-forward over images, whose places see their neighbours."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import activate, check_activation
from jaxmodels.layers.spec import ZEROS, Param, Params, ParamTree, matrix


@dataclass(frozen=True, kw_only=True)
class GatedConvMLP:
    """``down(a * activation(b))`` with ``a, b = conv(activation(up(x)))``, a convolution of 3 x 3 places in
    each channel by itself: the feed-forward of Sana (https://arxiv.org/abs/2410.10629).

    Attributes:
        d_model: channels of the image.
        d_ff: channels of a and of b.
        activation: see above.

    Raises:
        ValueError: `activation` is not in `ACTIVATIONS`.
    """

    d_model: int
    d_ff: int
    activation: str = "silu"

    def __post_init__(self) -> None:
        check_activation(self.activation)

    @property
    def conv(self) -> Conv2D:
        """The convolution of each channel."""
        return Conv2D(in_channels=2 * self.d_ff, out_channels=2 * self.d_ff, groups=2 * self.d_ff)

    def spec(self) -> ParamTree:
        return {
            "w_up": matrix((2 * self.d_ff, self.d_model), ("mlp", "embed")),
            "b_up": Param((2 * self.d_ff,), ("mlp",), ZEROS),
            "conv": self.conv.spec(),
            "w_down": matrix((self.d_model, self.d_ff), ("embed", "mlp")),
        }

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one place, the same for every `context`."""
        return 6 * self.d_model * self.d_ff + self.conv.flops(1, 1)

    def __call__(self, params: Params, x: Float[Array, "B H W D"]) -> Float[Array, "B H W D"]:
        up = activate(self.activation, linear(x, params["w_up"]) + params["b_up"])
        mixed = self.conv(params["conv"], up)
        hidden = mixed[..., : self.d_ff] * activate(self.activation, mixed[..., self.d_ff :])
        return linear(hidden, params["w_down"])
