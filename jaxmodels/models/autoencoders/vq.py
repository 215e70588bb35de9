"""Images as grids of codes: an autoencoder whose latents are entries of a codebook."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.spec import Normal, Param, Params, ParamTree
from jaxmodels.models.autoencoders.stages import ConvDecoder, ConvEncoder, Shape


def nearest_code(x: Float[Array, "... D"], codebook: Float[Array, "V D"]) -> Int[Array, "..."]:
    """The entry of the codebook that is nearest to each vector, the first of several as near."""
    x, codebook = x.astype(jnp.float32), codebook.astype(jnp.float32)
    products = jnp.einsum("...d,vd->...v", x, codebook, precision=jax.lax.Precision.HIGHEST)
    return jnp.argmin(jnp.square(codebook).sum(-1) - 2 * products, axis=-1).astype(jnp.int32)


@dataclass(frozen=True, kw_only=True)
class VQModel:
    """A convolutional autoencoder with a codebook between its halves (https://arxiv.org/abs/1711.00937, with
    the layers of https://arxiv.org/abs/2012.09841).

    Attributes:
        image_channels: of images, on both sides; pixels are from -1 to 1.
        shape: the stages of encoder and decoder.
        latent_channels: between the halves and the codebook.
        num_codes: entries of the codebook.
        code_width: numbers of an entry.
        sample_size: height and width of the images it was trained on (advisory).
        family: what it was read as and is written back as, None if it has no such form.
        notes: keys of the configuration that do not change the model, to be written back.

    Raises:
        ValueError: a part does not fit.
    """

    image_channels: int = 3
    shape: Shape
    latent_channels: int
    num_codes: int
    code_width: int
    sample_size: int = 32
    family: str | None = None
    notes: tuple[tuple[str, Any], ...] = field(default=())

    @property
    def blocks(self) -> tuple[Any, ...]:
        """None: its layers are not alike."""
        return ()

    @property
    def encoder(self) -> ConvEncoder:
        return ConvEncoder(
            shape=self.shape, in_channels=self.image_channels, out_channels=self.latent_channels
        )

    @property
    def decoder(self) -> ConvDecoder:
        return ConvDecoder(
            shape=self.shape, in_channels=self.latent_channels, out_channels=self.image_channels
        )

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        codebook = Param((self.num_codes, self.code_width), ("vocab", None), Normal(1 / self.num_codes))
        return {
            "encoder": self.encoder.spec(),
            "to_code": self._to_code.spec(),
            "codebook": {"weight": codebook},
            "from_code": self._from_code.spec(),
            "decoder": self.decoder.spec(),
        }

    def encode(self, params: Params, images: Float[Array, "B H W C"]) -> Float[Array, "B P Q D"]:
        """What stands at each place before the nearest code is chosen.

        Raises:
            ValueError: images of other channels.
        """
        if images.ndim != 4 or images.shape[-1] != self.image_channels:
            raise ValueError(f"images: expected [B, H, W, {self.image_channels}], got {list(images.shape)}")
        images = images.astype(params["to_code"]["w"].dtype)
        return self._to_code(params["to_code"], self.encoder(params["encoder"], images))

    def codes(self, params: Params, images: Float[Array, "B H W C"]) -> Int[Array, "B P Q"]:
        """The codes of images; see `encode`."""
        return nearest_code(self.encode(params, images), params["codebook"]["weight"])

    def decode(self, params: Params, latents: Float[Array, "B P Q D"]) -> Float[Array, "B H W C"]:
        """The images of vectors that stand for codes."""
        return self.decoder(params["decoder"], self._from_code(params["from_code"], latents))

    def pixels(self, params: Params, codes: Int[Array, "B P Q"]) -> Float[Array, "B H W C"]:
        """The images of grids of codes."""
        return self.decode(params, params["codebook"]["weight"][codes])

    @property
    def _to_code(self) -> Conv2D:
        return Conv2D(
            in_channels=self.latent_channels, out_channels=self.code_width, kernel=1, padding=(0, 0)
        )

    @property
    def _from_code(self) -> Conv2D:
        return Conv2D(
            in_channels=self.code_width, out_channels=self.latent_channels, kernel=1, padding=(0, 0)
        )
