"""Images as codes at several scales: the autoencoder of VAR."""

from dataclasses import dataclass, field
from typing import Any

from jaxtyping import Array, Float, Int

from jaxmodels.layers.conv2d import Conv2D
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.autoencoders.pyramid import Pyramid
from jaxmodels.models.autoencoders.stages import ConvDecoder, ConvEncoder, Shape


@dataclass(frozen=True, kw_only=True)
class MultiScaleVQ:
    """A convolutional autoencoder with a `Pyramid` between its halves (https://arxiv.org/abs/2404.02905).

    Attributes:
        image_channels: of images, on both sides; pixels are from -1 to 1.
        shape: the stages of encoder and decoder.
        pyramid: the codes.
        kernel: of the convolutions between the halves and the codes, odd.
        family: what it was read as and is written back as, None if it has no such form.
        notes: keys of the configuration that do not change the model, to be written back.

    Raises:
        ValueError: `kernel` is even.
    """

    image_channels: int = 3
    shape: Shape
    pyramid: Pyramid
    kernel: int = 3
    family: str | None = None
    notes: tuple[tuple[str, Any], ...] = field(default=())

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ValueError(f"MultiScaleVQ: kernel must be odd, got {self.kernel}")

    @property
    def blocks(self) -> tuple[Any, ...]:
        """None: its layers are not alike."""
        return ()

    @property
    def size(self) -> int:
        """Height and width of an image in pixels."""
        return self.pyramid.side * self.shape.factor

    @property
    def num_codes(self) -> int:
        """Entries of the codebook."""
        return self.pyramid.num_codes

    @property
    def encoder(self) -> ConvEncoder:
        width = self.pyramid.code_width
        return ConvEncoder(shape=self.shape, in_channels=self.image_channels, out_channels=width)

    @property
    def decoder(self) -> ConvDecoder:
        width = self.pyramid.code_width
        return ConvDecoder(shape=self.shape, in_channels=width, out_channels=self.image_channels)

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        return {
            "encoder": self.encoder.spec(),
            "to_code": self._between.spec(),
            **self.pyramid.spec(),
            "from_code": self._between.spec(),
            "decoder": self.decoder.spec(),
        }

    def encode(self, params: Params, images: Float[Array, "B H W C"]) -> Float[Array, "B P P D"]:
        """The latents of images before they become codes.

        Raises:
            ValueError: images of another size or of other channels.
        """
        expected = (self.size, self.size, self.image_channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"images: expected {['B', *expected]}, got {list(images.shape)}")
        images = images.astype(params["to_code"]["w"].dtype)
        return self._between(params["to_code"], self.encoder(params["encoder"], images))

    def codes(self, params: Params, images: Float[Array, "B H W C"]) -> Int[Array, "B L"]:
        """The codes of images, one scale behind the other; see `encode`."""
        return self.pyramid.codes(params, self.encode(params, images))

    def decode(self, params: Params, latents: Float[Array, "B P P D"]) -> Float[Array, "B H W C"]:
        """The images of latents."""
        weights = params["from_code"]
        latents = latents.astype(weights["w"].dtype)
        return self.decoder(params["decoder"], self._between(weights, latents))

    def pixels(self, params: Params, codes: Int[Array, "B L"]) -> Float[Array, "B H W C"]:
        """The images of the codes of all scales."""
        return self.decode(params, self.pyramid.latents(params, codes))

    @property
    def _between(self) -> Conv2D:
        width, edge = self.pyramid.code_width, self.kernel // 2
        return Conv2D(in_channels=width, out_channels=width, kernel=self.kernel, padding=(edge, edge))
