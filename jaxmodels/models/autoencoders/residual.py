"""The blocks that convolutional autoencoders are made of."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.image_norm import GroupNorm
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.mlp import activate, check_activation
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.layers.window import fresh_window


@dataclass(frozen=True, kw_only=True)
class ConvBlock:
    """``skip(x) + conv(act(norm(conv(act(norm(x))))))``, the skip a convolution of single places where the
    channels differ, else x itself.

    Attributes:
        in_channels, out_channels: of the image before and behind it.
        num_groups: of its norms.
        activation: by its name in `jaxmodels.layers.mlp.ACTIVATIONS`.

    Raises:
        ValueError: `num_groups` does not divide the channels, or the activation is unknown.
    """

    in_channels: int
    out_channels: int
    num_groups: int = 32
    activation: str = "silu"

    def __post_init__(self) -> None:
        check_activation(self.activation)
        self.spec()

    @property
    def _layers(self) -> dict[str, Conv2D | GroupNorm]:
        before, behind = self.in_channels, self.out_channels
        layers: dict[str, Conv2D | GroupNorm] = {
            "norm_in": GroupNorm(channels=before, num_groups=self.num_groups),
            "conv_in": Conv2D(in_channels=before, out_channels=behind),
            "norm_out": GroupNorm(channels=behind, num_groups=self.num_groups),
            "conv_out": Conv2D(in_channels=behind, out_channels=behind),
        }
        if before != behind:
            layers["skip"] = Conv2D(in_channels=before, out_channels=behind, kernel=1, padding=(0, 0))
        return layers

    def spec(self) -> ParamTree:
        return {name: layer.spec() for name, layer in self._layers.items()}

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W F"]:
        layers, y = self._layers, x
        for end in ("in", "out"):
            y = activate(self.activation, layers[f"norm_{end}"](params[f"norm_{end}"], y))
            y = layers[f"conv_{end}"](params[f"conv_{end}"], y)
        return y + (layers["skip"](params["skip"], x) if "skip" in layers else x)


@dataclass(frozen=True, kw_only=True)
class PlaceAttention:
    """``x + attention(norm(x))`` with one head, in which all places of an image see one another.

    Raises:
        ValueError: `num_groups` does not divide `channels`.
    """

    channels: int
    num_groups: int = 32

    def __post_init__(self) -> None:
        self.spec()

    @property
    def norm(self) -> GroupNorm:
        return GroupNorm(channels=self.channels, num_groups=self.num_groups)

    @property
    def attention(self) -> Attention:
        return Attention(
            d_model=self.channels,
            num_heads=1,
            num_kv_heads=1,
            head_dim=self.channels,
            qkv_bias=True,
            out_bias=True,
        )

    def spec(self) -> ParamTree:
        return {"norm": self.norm.spec(), "attention": self.attention.spec()}

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        y = self.norm(params["norm"], x).reshape(x.shape[0], -1, self.channels)
        window = fresh_window(y[..., 0], mask=BIDIRECTIONAL)
        return x + self.attention.forward(params["attention"], y, window).reshape(x.shape)
