"""Images as small grids of many numbers: the deep compression autoencoder of Sana."""

from dataclasses import dataclass

from jaxtyping import Array, Float

from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.autoencoders.autoencoder import check_images, check_latents
from jaxmodels.models.autoencoders.dc_stages import DCDecoder, DCEncoder


@dataclass(frozen=True, kw_only=True)
class AutoencoderDC:
    """An autoencoder whose images are 32 or more times higher and wider than its latents
    (https://arxiv.org/abs/2410.10733).

    Attributes:
        encoder, decoder: the halves.
        scaling_factor: denoisers work on ``scaling_factor * x``.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: the halves are of different numbers of stages or channels.
    """

    encoder: DCEncoder
    decoder: DCDecoder
    scaling_factor: float = 1.0
    family: str | None = None

    def __post_init__(self) -> None:
        for name in ("image_channels", "latent_channels"):
            ours, theirs = getattr(self.encoder, name), getattr(self.decoder, name)
            if ours != theirs:
                raise ValueError(f"AutoencoderDC: {name} of the encoder is {ours}, of the decoder {theirs}")
        stages = [len(half.shape.stages) for half in (self.encoder, self.decoder)]
        if stages[0] != stages[1]:
            raise ValueError(f"AutoencoderDC: encoder and decoder have {stages} stages; they need as many")

    @property
    def blocks(self) -> tuple[()]:
        """None: its layers are not alike."""
        return ()

    @property
    def image_channels(self) -> int:
        return self.encoder.image_channels

    @property
    def latent_channels(self) -> int:
        return self.encoder.latent_channels

    @property
    def factor(self) -> int:
        """How many times higher and wider an image is than its latents."""
        return int(2 ** (len(self.encoder.shape.stages) - 1))

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        return {"encoder": self.encoder.spec(), "decoder": self.decoder.spec()}

    def encode(self, params: Params, images: Float[Array, "B H W C"]) -> Float[Array, "B P Q D"]:
        """What stands for images, not scaled.

        Raises:
            ValueError: images of other channels, or of sizes that `factor` does not divide.
        """
        check_images(images, self.image_channels, self.factor)
        return self.encoder(params["encoder"], images.astype(params["encoder"]["conv_in"]["w"].dtype))

    def decode(self, params: Params, code: Float[Array, "B P Q D"]) -> Float[Array, "B H W C"]:
        """The images of what stands for them, not scaled.

        Raises:
            ValueError: latents of other channels.
        """
        check_latents(code, self.latent_channels)
        return self.decoder(params["decoder"], code.astype(params["decoder"]["conv_in"]["w"].dtype))

    def latents(self, params: Params, images: Float[Array, "B H W C"]) -> Float[Array, "B P Q D"]:
        """`encode`, as denoisers work on it."""
        return self.encode(params, images) * self.scaling_factor

    def pixels(self, params: Params, latents: Float[Array, "B P Q D"]) -> Float[Array, "B H W C"]:
        """The images of latents as denoisers work on them."""
        return self.decode(params, latents / self.scaling_factor)
