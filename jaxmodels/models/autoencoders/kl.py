"""Images as grids of numbers that follow a normal distribution: the autoencoder of latent diffusion."""

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Array, Float

from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.autoencoders.autoencoder import Gaussian, check_images, check_latents, gaussian
from jaxmodels.models.autoencoders.stages import ConvDecoder, ConvEncoder, Shape


@dataclass(frozen=True, kw_only=True)
class AutoencoderKL:
    """A convolutional autoencoder that was trained with a divergence from unit noise
    (https://arxiv.org/abs/2112.10752).

    Attributes:
        image_channels: of images, on both sides; pixels are from -1 to 1.
        shape: the stages of encoder and decoder.
        latent_channels: of latents.
        projects_code: whether a convolution of single places stands behind the encoder.
        projects_latents: whether one stands in front of the decoder. SD3 and Flux have neither.
        scaling_factor, shift_factor: denoisers work on ``(x - shift_factor) * scaling_factor``. A shift of
            None is 0.
        sample_size: height and width of the images it was trained on (advisory).
        family: what it was read as and is written back as, None if it has no such form.
        notes: keys of the configuration that do not change the model, to be written back.

    Raises:
        ValueError: a part does not fit.
    """

    image_channels: int = 3
    shape: Shape
    latent_channels: int
    projects_code: bool = True
    projects_latents: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float | None = None
    sample_size: int = 32
    family: str | None = None
    notes: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def blocks(self) -> tuple[Any, ...]:
        """None: its layers are not alike."""
        return ()

    @property
    def factor(self) -> int:
        """How many times higher and wider an image is than its latents."""
        return self.shape.factor

    @property
    def encoder(self) -> ConvEncoder:
        """To a mean and a log variance for each of the latents' channels."""
        return ConvEncoder(
            shape=self.shape, in_channels=self.image_channels, out_channels=2 * self.latent_channels
        )

    @property
    def decoder(self) -> ConvDecoder:
        return ConvDecoder(
            shape=self.shape, in_channels=self.latent_channels, out_channels=self.image_channels
        )

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        tree: ParamTree = {"encoder": self.encoder.spec(), "decoder": self.decoder.spec()}
        if self.projects_code:
            tree["to_code"] = _projection(2 * self.latent_channels).spec()
        if self.projects_latents:
            tree["from_code"] = _projection(self.latent_channels).spec()
        return tree

    def encode(self, params: Params, images: Float[Array, "B H W C"]) -> Gaussian:
        """The distribution of what stands for images, not scaled.

        Raises:
            ValueError: images of other channels, or of sizes that `factor` does not divide.
        """
        check_images(images, self.image_channels, self.factor)
        code = self.encoder(params["encoder"], images.astype(params["encoder"]["conv_in"]["w"].dtype))
        if self.projects_code:
            code = _projection(2 * self.latent_channels)(params["to_code"], code)
        return gaussian(code)

    def decode(self, params: Params, code: Float[Array, "B P Q D"]) -> Float[Array, "B H W C"]:
        """The images of what stands for them, not scaled.

        Raises:
            ValueError: latents of other channels.
        """
        check_latents(code, self.latent_channels)
        code = code.astype(params["decoder"]["conv_in"]["w"].dtype)
        if self.projects_latents:
            code = _projection(self.latent_channels)(params["from_code"], code)
        return self.decoder(params["decoder"], code)

    def latents(self, params: Params, images: Float[Array, "B H W C"]) -> Float[Array, "B P Q D"]:
        """The means of `encode`, as denoisers work on them."""
        return self.scaled(self.encode(params, images).mean)

    def pixels(self, params: Params, latents: Float[Array, "B P Q D"]) -> Float[Array, "B H W C"]:
        """The images of latents as denoisers work on them."""
        return self.decode(params, latents / self.scaling_factor + (self.shift_factor or 0.0))

    def scaled(self, code: Float[Array, "B P Q D"]) -> Float[Array, "B P Q D"]:
        """A draw or mean of `encode` as denoisers work on it."""
        return (code - (self.shift_factor or 0.0)) * self.scaling_factor


def _projection(channels: int) -> Conv2D:
    return Conv2D(in_channels=channels, out_channels=channels, kernel=1, padding=(0, 0))
