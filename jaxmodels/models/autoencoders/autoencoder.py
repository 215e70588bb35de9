"""What generators ask of an autoencoder: from images to latents that a denoiser works on, and back."""

from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.layers.spec import Params, ParamTree

# Between which log variances are kept, as all of this lineage do.
LOG_VARIANCES = (-30.0, 20.0)


@runtime_checkable
class Autoencoder(Protocol):
    """An autoencoder whose latents are numbers. Images have pixels from -1 to 1, latents the scale that the
    denoisers trained on them work in; both have their channels last. Implementations are hashable."""

    @property
    def factor(self) -> int:
        """How many times higher and wider an image is than its latents."""

    @property
    def image_channels(self) -> int: ...

    @property
    def latent_channels(self) -> int: ...

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""

    def latents(self, params: Params, images: Float[Array, "B H W C"]) -> Float[Array, "B P Q D"]:
        """What stands for images; of a distribution, its mean."""

    def pixels(self, params: Params, latents: Float[Array, "B P Q D"]) -> Float[Array, "B H W C"]:
        """The images that latents stand for."""


@struct.dataclass
class Gaussian:
    """A normal distribution of independent numbers.

    Attributes:
        mean: [B, P, Q, D].
        log_variance: the same shape.
    """

    mean: jax.Array
    log_variance: jax.Array

    def sample(self, noise: Float[Array, "B P Q D"]) -> Float[Array, "B P Q D"]:
        """A draw, made of unit noise."""
        return self.mean + jnp.exp(0.5 * self.log_variance) * noise

    def divergence(self) -> Float[Array, " B"]:
        """The Kullback-Leibler divergence from unit noise, in nats, of each row."""
        terms = jnp.square(self.mean) + jnp.exp(self.log_variance) - 1.0 - self.log_variance
        return 0.5 * terms.sum(axis=(1, 2, 3))


def gaussian(parameters: Float[Array, "B P Q E"]) -> Gaussian:
    """The distribution whose means are the first half of the channels, its log variances the other."""
    mean, log_variance = jnp.split(parameters, 2, axis=-1)
    return Gaussian(mean=mean, log_variance=jnp.clip(log_variance, *LOG_VARIANCES))


def check_images(images: jax.Array, channels: int, factor: int) -> None:
    """Raises ValueError unless images are [B, H, W, channels] whose sizes `factor` divides."""
    shape = list(images.shape)
    if len(shape) != 4 or shape[3] != channels:
        raise ValueError(f"images: expected [B, H, W, {channels}], got {shape}")
    if shape[1] % factor or shape[2] % factor:
        raise ValueError(
            f"images: height and width must be multiples of {factor}, by which the latents are smaller, "
            f"got {shape[1]} x {shape[2]}"
        )


def check_latents(latents: jax.Array, channels: int) -> None:
    """Raises ValueError unless latents are [B, P, Q, channels]."""
    if latents.ndim != 4 or latents.shape[3] != channels:
        raise ValueError(f"latents: expected [B, P, Q, {channels}], got {list(latents.shape)}")
