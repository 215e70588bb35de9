"""MAGE: an encoder and a decoder over the codes of an image, without a class."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.linear import linear
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.mlp import activate
from jaxmodels.layers.norm import LayerNorm
from jaxmodels.layers.spec import ZEROS, FanIn, Normal, Param, Params, ParamTree
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.block import Block, Stream


@dataclass(frozen=True, kw_only=True)
class MAGE:
    """The transformers of https://arxiv.org/abs/2211.09117.

    The encoder reads all codes behind a token that stands for an unknown class. The decoder is given what the
    encoder made of that token in the place of every masked one, and positions of its own; its head is tied to
    the encoder's embedding.

    Attributes:
        num_codes: entries of the codebook. The vocabulary has 1,000 classes behind them, and the mask token.
        places: codes of an image.
        encoder, decoder: blocks, each half of one width.
        embed_norm, encoder_norm, decoder_norm, head_norm: of the embeddings, behind each half, in the head.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: a half has no block.
    """

    num_codes: int
    places: int
    encoder: tuple[Block, ...]
    decoder: tuple[Block, ...]
    embed_norm: LayerNorm
    encoder_norm: LayerNorm
    decoder_norm: LayerNorm
    head_norm: LayerNorm
    family: str | None = None

    def __post_init__(self) -> None:
        if not self.encoder or not self.decoder:
            raise ValueError("MAGE: encoder and decoder must have at least one block each")

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Those of both halves."""
        return self.encoder + self.decoder

    @property
    def vocab_size(self) -> int:
        return self.num_codes + 1001

    @property
    def mask_token(self) -> int:
        """The last of the vocabulary."""
        return self.vocab_size - 1

    @property
    def class_token(self) -> int:
        """What stands in front of every image: one of the classes, whose meaning is that none is given."""
        return self.num_codes + 76

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        wide, narrow, vocab = self.encoder_norm.dim, self.decoder_norm.dim, self.vocab_size
        return {
            "embed": {"weight": Param((vocab, wide), ("vocab", "embed"), Normal(0.02))},
            "positions": {"weight": Param((self.places + 1, wide), (None, "embed"), Normal(0.02))},
            "embed_norm": self.embed_norm.spec(),
            "encoder": {str(i): block.spec() for i, block in enumerate(self.encoder)},
            "encoder_norm": self.encoder_norm.spec(),
            "narrow": {
                "w": Param((narrow, wide), (None, "embed"), FanIn(wide)),
                "b": Param((narrow,), (None,), ZEROS),
            },
            "decoder_positions": {"weight": Param((self.places + 1, narrow), (None, "embed"), Normal(0.02))},
            "decoder": {str(i): block.spec() for i, block in enumerate(self.decoder)},
            "decoder_norm": self.decoder_norm.spec(),
            "head": {
                "w": Param((wide, narrow), (None, "embed"), FanIn(narrow)),
                "b": Param((wide,), (None,), ZEROS),
                "norm": self.head_norm.spec(),
                "bias": Param((vocab,), ("vocab",), ZEROS),
            },
        }

    def logits(self, params: Params, tokens: Int[Array, "B S"]) -> Float[Array, "B S V"]:
        """The logits of whole sequences: `class_token`, then the codes, or the mask token where one is
        unknown.

        Raises:
            ValueError: `tokens` are not one sequence of the model's length per row.
        """
        if tokens.ndim != 2 or tokens.shape[1] != self.places + 1:
            raise ValueError(
                f"tokens: expected [B, {self.places + 1}], the class and {self.places} codes, got "
                f"{list(tokens.shape)}"
            )
        x = params["embed"]["weight"][tokens] + params["positions"]["weight"]
        x = _through(self.encoder, params["encoder"], self.embed_norm(params["embed_norm"], x))
        x = self.encoder_norm(params["encoder_norm"], x)
        x = linear(x, params["narrow"]["w"]) + params["narrow"]["b"]
        x = jnp.where((tokens == self.mask_token)[:, :, None], x[:, :1], x)
        x = _through(self.decoder, params["decoder"], x + params["decoder_positions"]["weight"])
        x = self.decoder_norm(params["decoder_norm"], x)
        head = params["head"]
        x = self.head_norm(head["norm"], activate("gelu", linear(x, head["w"]) + head["b"]))
        return linear(x, params["embed"]["weight"], jnp.float32) + head["bias"].astype(jnp.float32)


def _through(blocks: tuple[Block, ...], params: Params, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
    window, stream = fresh_window(x[..., 0], mask=BIDIRECTIONAL), Stream(hidden=x, embedded=x)
    for i, block in enumerate(blocks):
        stream = block.forward(params[str(i)], stream, window)
    return stream.narrow()
