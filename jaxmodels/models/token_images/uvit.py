"""aMUSEd's U-ViT: a transformer over a grid of codes, between two convolutional ends, that reads a text."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.condition import embed_mlp, embed_mlp_spec
from jaxmodels.layers.conv2d import Conv2D, TransposedConv2D
from jaxmodels.layers.linear import linear
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.spec import ZEROS, FanIn, Normal, Param, Params, ParamTree
from jaxmodels.layers.timestep import timestep_features
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.token_images.condition import Prompt, check_prompt
from jaxmodels.models.token_images.conv_next import ConvNextBlock
from jaxmodels.models.token_images.text_blocks import AdaptiveTextBlock, TwofoldTextBlock


@dataclass(frozen=True, kw_only=True)
class UVit2D:
    """A bidirectional model of codes under a text (https://arxiv.org/abs/2401.01808).

    The grid is embedded; pairs of a convolutional and an attending block follow, then the transformer, such
    pairs again, and a head over the codes. With `halves` the first pairs halve the grid's height and width,
    and the last ones double them.

    Attributes:
        vocab_size: rows of the embedding: the codes, the mask token, and what else there is.
        num_codes: entries of the codebook, which the head chooses from.
        code_width: width of the embedding and of the head.
        d_text, d_pooled: widths of a text's tokens and of its one vector.
        num_described, described_features: how many numbers describe the picture, and the features of each.
        conv: of the pairs at both ends.
        attending: of the pairs at both ends.
        num_pairs: at each end.
        halves: whether the ends change the grid's size.
        blocks: of the transformer.
        channel_norm: norms over the channels of the ends.
        model_norm: norms over the transformer's width.
        code_norm: norms over `code_width`.
        bias: whether projections and convolutions have biases.
        sample_size: height and width of the pictures it was trained on (advisory).
        family: what it was read as and is written back as, None if it has no such form.
    """

    vocab_size: int
    num_codes: int
    code_width: int
    d_text: int
    d_pooled: int
    num_described: int
    described_features: int
    conv: ConvNextBlock
    attending: TwofoldTextBlock
    num_pairs: int
    halves: bool
    blocks: tuple[AdaptiveTextBlock, ...]
    channel_norm: Norm
    model_norm: Norm
    code_norm: Norm
    bias: bool = False
    sample_size: int = 64
    family: str | None = None

    def __post_init__(self) -> None:
        if not self.blocks or self.num_pairs < 1:
            raise ValueError("UVit2D: there must be at least one block, and one pair at each end")
        if not self.num_codes < self.vocab_size:
            raise ValueError(
                f"UVit2D: vocab_size={self.vocab_size} must exceed num_codes={self.num_codes}: the mask "
                "token has a row of its own"
            )

    @property
    def channels(self) -> int:
        """Of the two ends."""
        return self.conv.channels

    @property
    def d_model(self) -> int:
        """The transformer's width."""
        return self.attending.d_text

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        channels, d, bias = self.channels, self.d_model, self.bias
        described = self.num_described * self.described_features
        return {
            "embed": {"weight": Param((self.vocab_size, self.code_width), ("vocab", "embed"), Normal(0.02))},
            "embed_norm": self.code_norm.spec(),
            "embed_out": _projection(channels, self.code_width, bias),
            "text": _projection(d, self.d_text, bias),
            "text_norm": self.model_norm.spec(),
            "condition": embed_mlp_spec(d, self.d_pooled + described, bias=bias),
            "down": self._end_spec("halving", self._halving.spec()),
            "in_norm": self.channel_norm.spec(),
            "in": _projection(d, channels, bias),
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "out_norm": self.model_norm.spec(),
            "out": _projection(channels, d, bias),
            "up": self._end_spec("doubling", self._doubling.spec()),
            "head_in": _projection(self.code_width, channels, bias),
            "head_norm": self.code_norm.spec(),
            "head": _projection(self.num_codes, self.code_width, bias),
        }

    def logits(
        self, params: Params, codes: Int[Array, "B H W"], condition: Prompt
    ) -> Float[Array, "B H W V"]:
        """The logits of the codes that stand at each place; where one is unknown, `codes` has the mask token.

        Raises:
            ValueError: `codes` is no grid, or one that cannot be halved; `condition` does not fit.
        """
        self._check(codes, condition)
        read = condition.tokens.astype(params["text"]["w"].dtype)
        text = self.model_norm(params["text_norm"], _project(params["text"], read))
        made = self._condition(params, condition).astype(text.dtype)
        x = self.code_norm(params["embed_norm"], params["embed"]["weight"][codes])
        x = _project(params["embed_out"], x)
        if self.halves:
            down = params["down"]["halving"]
            x = self._halving(down["conv"], self.channel_norm(down["norm"], x))
        x = self._pairs(params["down"], x, text, made)
        x = self._transformer(params, x, text, made)
        x = self._pairs(params["up"], x, text, made)
        if self.halves:
            up = params["up"]["doubling"]
            x = self._doubling(up["conv"], self.channel_norm(up["norm"], x))
        x = self.code_norm(params["head_norm"], _project(params["head_in"], x))
        return _project(params["head"], x)

    @property
    def _halving(self) -> Conv2D:
        c = self.channels
        return Conv2D(in_channels=c, out_channels=c, kernel=2, stride=2, padding=(0, 1), bias=self.bias)

    @property
    def _doubling(self) -> TransposedConv2D:
        return TransposedConv2D(in_channels=self.channels, out_channels=self.channels, bias=self.bias)

    def _end_spec(self, name: str, resizing: ParamTree) -> ParamTree:
        pairs = range(self.num_pairs)
        tree: ParamTree = {
            "conv": {str(i): self.conv.spec() for i in pairs},
            "attending": {str(i): self.attending.spec() for i in pairs},
        }
        return tree | {name: {"norm": self.channel_norm.spec(), "conv": resizing}} if self.halves else tree

    def _condition(self, params: Params, prompt: Prompt) -> Float[Array, "B D"]:
        features = timestep_features(prompt.described, self.described_features)
        features = features.reshape(len(features), -1)
        joined = jnp.concatenate([prompt.pooled, features], axis=1)
        return embed_mlp(params["condition"], joined.astype(params["condition"]["w_in"].dtype))

    def _pairs(
        self,
        params: Params,
        x: Float[Array, "B H W C"],
        text: Float[Array, "B T D"],
        condition: Float[Array, "B D"],
    ) -> Float[Array, "B H W C"]:
        for i in range(self.num_pairs):
            x = self.conv(params["conv"][str(i)], x, condition)
            flat = x.reshape(x.shape[0], -1, self.channels)
            window = fresh_window(flat[..., 0], mask=BIDIRECTIONAL)
            flat = self.attending(params["attending"][str(i)], flat, text, window)
            x = flat.reshape(x.shape)
        return x

    def _transformer(
        self,
        params: Params,
        x: Float[Array, "B H W C"],
        text: Float[Array, "B T D"],
        condition: Float[Array, "B D"],
    ) -> Float[Array, "B H W C"]:
        flat = x.reshape(x.shape[0], -1, self.channels)
        flat = _project(params["in"], self.channel_norm(params["in_norm"], flat))
        window = fresh_window(flat[..., 0], mask=BIDIRECTIONAL)
        for i, block in enumerate(self.blocks):
            flat = block(params["blocks"][str(i)], flat, text, condition, window)
        return _project(params["out"], self.model_norm(params["out_norm"], flat)).reshape(x.shape)

    def _check(self, codes: Array, condition: object) -> None:
        if codes.ndim != 3:
            raise ValueError(f"codes: expected [B, H, W], got {list(codes.shape)}")
        if self.halves and (codes.shape[1] % 2 or codes.shape[2] % 2):
            raise ValueError(
                f"codes: the model halves its grid, so that height and width must be even, got "
                f"{codes.shape[1]} x {codes.shape[2]}"
            )
        check_prompt(condition, codes.shape[0], (self.d_text, self.d_pooled, self.num_described))


def _projection(d_out: int, d_in: int, bias: bool) -> ParamTree:
    tree: ParamTree = {"w": Param((d_out, d_in), (None, None), FanIn(d_in))}
    return tree | {"b": Param((d_out,), (None,), ZEROS)} if bias else tree


def _project(params: Params, x: Float[Array, "... D"]) -> Float[Array, "... F"]:
    y = linear(x, params["w"])
    return y + params["b"] if "b" in params else y
