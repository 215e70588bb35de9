"""Normalisation of images, channels last, whose statistics go over places as well as channels.

Statistics are taken in float32 and the result has the input's dtype.
"""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.layers.spec import ONES, ZEROS, Param, Params, ParamTree


def group_norm(
    x: Float[Array, "B H W C"],
    scale: Float[Array, " C"],
    bias: Float[Array, " C"],
    *,
    num_groups: int,
    eps: float,
) -> Float[Array, "B H W C"]:
    """Each group of channels of an image, over all places, with mean 0 and variance 1; then scale and bias
    (https://arxiv.org/abs/1803.08494)."""
    batch, height, width, channels = x.shape
    y = x.astype(jnp.float32).reshape(batch, height * width, num_groups, channels // num_groups)
    y = y - jnp.mean(y, axis=(1, 3), keepdims=True)
    y = y * lax.rsqrt(jnp.mean(jnp.square(y), axis=(1, 3), keepdims=True) + eps)
    y = y.reshape(x.shape) * scale.astype(jnp.float32) + bias.astype(jnp.float32)
    return y.astype(x.dtype)


@dataclass(frozen=True, kw_only=True)
class GroupNorm:
    """`group_norm` with a learned scale and bias.

    Raises:
        ValueError: `num_groups` does not divide `channels`.
    """

    channels: int
    num_groups: int = 32
    eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.num_groups < 1 or self.channels % self.num_groups:
            raise ValueError(
                f"GroupNorm: num_groups must divide channels={self.channels}, got {self.num_groups}"
            )

    def spec(self) -> ParamTree:
        return {
            "scale": Param((self.channels,), (None,), ONES),
            "bias": Param((self.channels,), (None,), ZEROS),
        }

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        return group_norm(x, params["scale"], params["bias"], num_groups=self.num_groups, eps=self.eps)


@dataclass(frozen=True, kw_only=True)
class BatchNorm:
    """``(x - mean) / sqrt(variance + eps) * scale + bias`` with a mean and a variance of each channel that
    were taken over the training images (https://arxiv.org/abs/1502.03167), as models that are trained use
    them."""

    channels: int
    eps: float = 1e-5

    def spec(self) -> ParamTree:
        initial = {"scale": ONES, "bias": ZEROS, "mean": ZEROS, "variance": ONES}
        return {name: Param((self.channels,), (None,), init) for name, init in initial.items()}

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        scale, bias, mean, variance = (params[name].astype(jnp.float32) for name in self.spec())
        y = (x.astype(jnp.float32) - mean) * (lax.rsqrt(variance + self.eps) * scale) + bias
        return y.astype(x.dtype)


@dataclass(frozen=True, kw_only=True)
class GlobalResponseNorm:
    """``x + scale * x * n + bias``, with n each channel's length over all places, divided by the mean length
    of the channels (https://arxiv.org/abs/2301.00808)."""

    channels: int
    eps: float = 1e-6

    def spec(self) -> ParamTree:
        return {
            "scale": Param((self.channels,), (None,), ZEROS),
            "bias": Param((self.channels,), (None,), ZEROS),
        }

    def __call__(self, params: Params, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        y = x.astype(jnp.float32)
        length = jnp.sqrt(jnp.sum(jnp.square(y), axis=(1, 2), keepdims=True))
        relative = length / (length.mean(axis=-1, keepdims=True) + self.eps)
        scale, bias = (params[name].astype(jnp.float32) for name in ("scale", "bias"))
        return (y + scale * (y * relative) + bias).astype(x.dtype)
