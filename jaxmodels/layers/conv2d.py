"""Convolutions over images, channels last, and what makes images smaller and larger."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class Conv2D:
    """A convolution of images; the weight is stored ``[out, in / groups, height, width]``, as torch has it.

    Attributes:
        in_channels, out_channels: multiples of `groups`.
        kernel: height and width of the window.
        stride: places from one window to the next.
        padding: zeros before and behind the image, in height as in width.
        groups: channels are cut into so many groups that do not see one another.
        bias: whether a bias is added.

    Raises:
        ValueError: `groups` does not divide the channels.
    """

    in_channels: int
    out_channels: int
    kernel: int = 3
    stride: int = 1
    padding: tuple[int, int] = (1, 1)
    groups: int = 1
    bias: bool = True

    def __post_init__(self) -> None:
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise ValueError(
                f"Conv2D: groups={self.groups} must divide in_channels={self.in_channels} and "
                f"out_channels={self.out_channels}"
            )

    def spec(self) -> ParamTree:
        inputs = self.in_channels // self.groups
        shape = (self.out_channels, inputs, self.kernel, self.kernel)
        return _weights(shape, self.out_channels, inputs * self.kernel**2, self.bias)

    def flops(self, height: int, width: int) -> int:
        """FLOPs for an output of `height` x `width`."""
        return 2 * height * width * self.out_channels * self.in_channels // self.groups * self.kernel**2

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B P Q F"]:
        y = lax.conv_general_dilated(
            x,
            params["w"],
            window_strides=(self.stride, self.stride),
            padding=(self.padding, self.padding),
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
            feature_group_count=self.groups,
        )
        return y + params["b"] if self.bias else y


@dataclass(frozen=True, kw_only=True)
class TransposedConv2D:
    """A transposed convolution whose stride is its kernel: every place becomes a square of places of its own.

    The weight is stored ``[in, out, height, width]``, as torch has it.

    Attributes:
        in_channels, out_channels: of the image before and behind it.
        kernel: height and width of a square, and so the factor by which the image grows.
        bias: whether a bias is added.
    """

    in_channels: int
    out_channels: int
    kernel: int = 2
    bias: bool = True

    def spec(self) -> ParamTree:
        shape = (self.in_channels, self.out_channels, self.kernel, self.kernel)
        return _weights(shape, self.out_channels, self.in_channels, self.bias)

    def flops(self, height: int, width: int) -> int:
        """FLOPs for an input of `height` x `width`."""
        return 2 * height * width * self.in_channels * self.out_channels * self.kernel**2

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B P Q F"]:
        batch, height, width, _ = x.shape
        y = jnp.einsum("bhwc,cfpq->bhpwqf", x, params["w"])
        y = y.reshape(batch, height * self.kernel, width * self.kernel, self.out_channels)
        return y + params["b"] if self.bias else y


def upsample_nearest(x: Float[Array, "B H W C"], factor: int = 2) -> Float[Array, "B P Q C"]:
    """The image with every place repeated `factor` times in height and width."""
    batch, height, width, channels = x.shape
    y = jnp.broadcast_to(x[:, :, None, :, None], (batch, height, factor, width, factor, channels))
    return y.reshape(batch, height * factor, width * factor, channels)


def _weights(shape: tuple[int, ...], out_channels: int, fan_in: int, bias: bool) -> ParamTree:
    tree: ParamTree = {"w": Param(shape, (None,) * 4, FanIn(fan_in))}
    if bias:
        tree["b"] = Param((out_channels,), (None,), ZEROS)
    return tree
