"""MAR: an encoder and a decoder over an image's continuous tokens, and a head that draws them."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.linear import linear
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.layers.spec import ZEROS, FanIn, Normal, Param, Params, ParamTree
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.block import Block, Stream
from jaxmodels.models.packing import pack, unpack
from jaxmodels.models.token_images.diffusion_head import DiffusionHead


@dataclass(frozen=True, kw_only=True)
class MAR:
    """The network of https://arxiv.org/abs/2406.11838.

    The encoder reads the tokens that are known, behind `buffer` copies of the class. The decoder is given
    what it made of them, and one learned vector in every other place. What it says of a place is the
    condition under which the head draws the place's token.

    Attributes:
        side: tokens in each row and column of an image.
        patch: height and width of the latent patch that a token holds.
        buffer: copies of the class.
        num_classes: classes are numbered from 0; `num_classes` stands for none.
        encoder, decoder: blocks.
        input_norm, encoder_norm, decoder_norm: of the embeddings, behind each half.
        head: draws tokens.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: a half has no block.
    """

    side: int
    patch: int = 1
    buffer: int = 64
    num_classes: int
    encoder: tuple[Block, ...]
    decoder: tuple[Block, ...]
    input_norm: LayerNorm
    encoder_norm: LayerNorm
    decoder_norm: LayerNorm
    head: DiffusionHead
    family: str | None = None

    def __post_init__(self) -> None:
        if not self.encoder or not self.decoder:
            raise ValueError("MAR: encoder and decoder must have at least one block each")

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Those of both halves."""
        return self.encoder + self.decoder

    @property
    def places(self) -> int:
        """Tokens of an image."""
        return self.side**2

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        wide, width, all_places = self.input_norm.dim, self.decoder_norm.dim, self.buffer + self.places

        def rows(count: int, size: int) -> ParamTree:
            return {"weight": Param((count, size), (None, "embed"), Normal(0.02))}

        return {
            "classes": rows(self.num_classes, wide),
            "no_class": rows(1, wide),
            "in": {
                "w": Param((wide, self.head.channels), ("embed", None), FanIn(self.head.channels)),
                "b": Param((wide,), ("embed",), ZEROS),
            },
            "positions": rows(all_places, wide),
            "input_norm": self.input_norm.spec(),
            "encoder": {str(i): block.spec() for i, block in enumerate(self.encoder)},
            "encoder_norm": self.encoder_norm.spec(),
            "decoder_in": {
                "w": Param((width, wide), (None, "embed"), FanIn(wide)),
                "b": Param((width,), (None,), ZEROS),
            },
            "unknown": rows(1, width),
            "decoder_positions": rows(all_places, width),
            "decoder": {str(i): block.spec() for i, block in enumerate(self.decoder)},
            "decoder_norm": self.decoder_norm.spec(),
            "head_positions": rows(self.places, width),
            "head": self.head.spec(),
        }

    def features(
        self,
        params: Params,
        tokens: Float[Array, "B S C"],
        known: Bool[Array, "B S"],
        classes: Int[Array, "B"],
    ) -> Float[Array, "B S D"]:
        """What is said of every place of images of these classes whose other tokens are `known`.

        Raises:
            ValueError: `tokens` are not the model's.
        """
        batch, size = tokens.shape[:2]
        if tokens.shape[1:] != (self.places, self.head.channels) or known.shape != (batch, size):
            raise ValueError(
                f"tokens: expected [B, {self.places}, {self.head.channels}], and known "
                f"bool[B, {self.places}], got {list(tokens.shape)} and {list(known.shape)}"
            )
        table = jnp.concatenate([params["classes"]["weight"], params["no_class"]["weight"]])
        of_class = table[classes][:, None]
        embedded = linear(tokens, params["in"]["w"]) + params["in"]["b"]
        of_class = jnp.broadcast_to(of_class, (batch, self.buffer, embedded.shape[-1]))
        x = jnp.concatenate([of_class, embedded], axis=1) + params["positions"]["weight"]
        x = self.input_norm(params["input_norm"], x)
        is_there = jnp.pad(known, ((0, 0), (self.buffer, 0)), constant_values=True)
        x = through(self.encoder, params["encoder"], x, is_there)
        x = self.encoder_norm(params["encoder_norm"], x)
        x = linear(x, params["decoder_in"]["w"]) + params["decoder_in"]["b"]
        x = jnp.where(is_there[:, :, None], x, params["unknown"]["weight"])
        x = x + params["decoder_positions"]["weight"]
        x = through(self.decoder, params["decoder"], x, None)
        x = self.decoder_norm(params["decoder_norm"], x)
        return x[:, self.buffer :] + params["head_positions"]["weight"]

    def to_latents(self, tokens: Float[Array, "B S C"]) -> Float[Array, "B H W E"]:
        """The image of latents that tokens make up, channels last."""
        batch, side, patch = tokens.shape[0], self.side, self.patch
        latents = tokens.reshape(batch, side, side, -1, patch, patch)
        return jnp.einsum("bhwcpq->bhpwqc", latents).reshape(batch, side * patch, side * patch, -1)

    def to_tokens(self, latents: Float[Array, "B H W E"]) -> Float[Array, "B S C"]:
        """The inverse of `to_latents`."""
        batch, side, patch = latents.shape[0], self.side, self.patch
        patches = latents.reshape(batch, side, patch, side, patch, -1)
        return jnp.einsum("bhpwqc->bhwcpq", patches).reshape(batch, side**2, -1)


def through(
    blocks: tuple[Block, ...], params: Params, x: Float[Array, "B S D"], there: Bool[Array, "B S"] | None
) -> Float[Array, "B S D"]:
    """The stream behind blocks that see all places both ways, of which those not `there` are padding."""
    window = fresh_window(x[..., 0], there, BIDIRECTIONAL)
    packed = pack(window, x)
    stream = Stream(hidden=packed, embedded=packed)
    for i, block in enumerate(blocks):
        stream = block.forward(params[str(i)], stream, window)
    y: Array = unpack(window, stream.narrow())
    return y
