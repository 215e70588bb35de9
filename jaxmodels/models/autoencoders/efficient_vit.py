"""The blocks of deep compression autoencoders: residual ones, and those that attend linearly."""

from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.gated_conv import GatedConv
from jaxmodels.layers.image_norm import BatchNorm
from jaxmodels.layers.linear import linear
from jaxmodels.layers.linear_attention import relu_attention
from jaxmodels.layers.mlp import activate, check_activation
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.spec import FanIn, Param, Params, ParamTree

EPS = 1e-5
# How much wider than the image the feed-forward is inside.
EXPANSION = 4

# Of the names that `diffusers` takes, those whose norms can be applied to an image there.
NormName = Literal["rms_norm", "batch_norm"]
NORMS: tuple[NormName, ...] = ("rms_norm", "batch_norm")


def channel_norm(name: NormName, channels: int) -> RMSNorm | BatchNorm:
    """The norm that `diffusers` calls `name`, with scale and bias; over the channels of each place, or with
    fixed statistics."""
    if name == "batch_norm":
        return BatchNorm(channels=channels, eps=EPS)
    return RMSNorm(dim=channels, eps=EPS, bias=True)


@dataclass(frozen=True, kw_only=True)
class ResidualBlock:
    """``x + norm(conv(act(conv(x))))``.

    Attributes:
        channels: of the image, before and behind it.
        norm: by its name in `NORMS`.
        activation: by its name in `jaxmodels.layers.mlp.ACTIVATIONS`.

    Raises:
        ValueError: the activation is unknown.
    """

    channels: int
    norm: NormName = "rms_norm"
    activation: str = "silu"

    def __post_init__(self) -> None:
        check_activation(self.activation)

    def _conv(self, bias: bool) -> Conv2D:
        return Conv2D(in_channels=self.channels, out_channels=self.channels, bias=bias)

    def spec(self) -> ParamTree:
        return {
            "conv_in": self._conv(True).spec(),
            "conv_out": self._conv(False).spec(),
            "norm": channel_norm(self.norm, self.channels).spec(),
        }

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        y = activate(self.activation, self._conv(True)(params["conv_in"], x))
        y = self._conv(False)(params["conv_out"], y)
        return x + channel_norm(self.norm, self.channels)(params["norm"], y)


@dataclass(frozen=True, kw_only=True)
class MultiscaleAttention:
    """``x + norm(out(heads))``: linear attention of all places with one another, on queries, keys and values
    as they are projected and again as averaged over neighbours, once for each of `kernels`
    (https://arxiv.org/abs/2205.14756).

    What is projected is cut into heads of ``3 * head_dim`` channels, query, key and value in turn, across the
    border between the three projections: they are the thirds of what was one matrix.

    Attributes:
        channels: of the image, before and behind it.
        head_dim: width of a head.
        kernels: odd widths of the neighbourhoods.
        norm: by its name in `NORMS`.

    Raises:
        ValueError: there is no whole head, or a kernel is even.
    """

    channels: int
    head_dim: int
    kernels: tuple[int, ...] = ()
    norm: NormName = "rms_norm"

    def __post_init__(self) -> None:
        if self.channels < self.head_dim:
            raise ValueError(
                f"MultiscaleAttention: channels={self.channels} hold no head of head_dim={self.head_dim}"
            )
        if any(kernel % 2 == 0 for kernel in self.kernels):
            raise ValueError(f"MultiscaleAttention: kernels must be odd, got {self.kernels}")

    @property
    def num_heads(self) -> int:
        """Of each scale."""
        return self.channels // self.head_dim

    @property
    def inner(self) -> int:
        """Width of all heads of a scale."""
        return self.num_heads * self.head_dim

    def _scale(self, kernel: int) -> dict[str, Conv2D]:
        width = 3 * self.inner
        side = kernel // 2
        return {
            "neighbours": Conv2D(
                in_channels=width,
                out_channels=width,
                kernel=kernel,
                padding=(side, side),
                groups=width,
                bias=False,
            ),
            "mix": Conv2D(
                in_channels=width,
                out_channels=width,
                kernel=1,
                padding=(0, 0),
                groups=3 * self.num_heads,
                bias=False,
            ),
        }

    def spec(self) -> ParamTree:
        d, inner, heads = self.channels, self.inner, self.inner * (1 + len(self.kernels))
        projection = Param((inner, d), (None, None), FanIn(d))
        return {
            **{f"w_{part}": projection for part in "qkv"},
            "scales": {
                str(i): {name: layer.spec() for name, layer in self._scale(kernel).items()}
                for i, kernel in enumerate(self.kernels)
            },
            "w_o": Param((d, heads), (None, None), FanIn(heads)),
            "norm": channel_norm(self.norm, d).spec(),
        }

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        projected = jnp.concatenate([linear(x, params[f"w_{part}"]) for part in "qkv"], axis=-1)
        scales = [projected]
        for i, kernel in enumerate(self.kernels):
            layers, weights = self._scale(kernel), params["scales"][str(i)]
            y = layers["neighbours"](weights["neighbours"], projected)
            scales.append(layers["mix"](weights["mix"], y))
        heads = jnp.concatenate(scales, axis=-1)
        heads = heads.reshape(x.shape[0], x.shape[1] * x.shape[2], -1, 3, self.head_dim)
        seen = jnp.ones(heads.shape[:2], bool)
        out = relu_attention(heads[..., 0, :], heads[..., 1, :], heads[..., 2, :], seen)
        y = linear(out.astype(x.dtype).reshape(*x.shape[:3], -1), params["w_o"])
        return x + channel_norm(self.norm, self.channels)(params["norm"], y)


@dataclass(frozen=True, kw_only=True)
class EfficientViTBlock:
    """A `MultiscaleAttention`, then ``x + norm(ffn(x))`` with a `GatedConv`."""

    attention: MultiscaleAttention

    @property
    def _channels(self) -> int:
        return self.attention.channels

    @property
    def ffn(self) -> GatedConv:
        return GatedConv(channels=self._channels, hidden=EXPANSION * self._channels)

    def spec(self) -> ParamTree:
        return {
            "attention": self.attention.spec(),
            "ffn": self.ffn.spec(),
            "ffn_norm": channel_norm("rms_norm", self._channels).spec(),
        }

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        x = self.attention(params["attention"], x)
        fed = self.ffn(params["ffn"], x)
        return x + channel_norm("rms_norm", self._channels)(params["ffn_norm"], fed)
