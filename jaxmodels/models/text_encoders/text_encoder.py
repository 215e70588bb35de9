"""The encoder half of CLIP and of T5: pre-norm blocks over a whole text, without a head."""

from dataclasses import dataclass, field
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.attend import Bias
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.linear import linear
from jaxmodels.layers.masks import BIDIRECTIONAL, Mask
from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.relative_bias import RelativeBias
from jaxmodels.layers.spec import FanIn, Normal, Param, Params, ParamTree
from jaxmodels.layers.window import Window, fresh_window
from jaxmodels.models.block import layer_specs
from jaxmodels.models.text_encoders.encoded import Encoded, restricted
from jaxmodels.models.text_encoders.pooling import Pooling, pooled


@dataclass(frozen=True, kw_only=True)
class EncoderBlock:
    """``x + mixer(norm(x))``, then ``x + ffn(norm(x))``, over a whole text."""

    mixer_norm: Norm
    mixer: Attention
    ffn_norm: Norm
    ffn: FeedForward

    def spec(self) -> ParamTree:
        return layer_specs(mixer_norm=self.mixer_norm, mixer=self.mixer, ffn_norm=self.ffn_norm, ffn=self.ffn)

    def forward(
        self, params: Params, x: Float[Array, "B S D"], window: Window, bias: Bias | None
    ) -> Float[Array, "B S D"]:
        """The block; `bias` is added to its attention's logits."""
        y = self.mixer_norm(params["mixer_norm"], x)
        x = x + self.mixer.forward(params["mixer"], y, window, bias)
        return x + self.ffn(params["ffn"], self.ffn_norm(params["ffn_norm"], x))


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """An encoder of texts. Static and hashable.

    Attributes:
        vocab_size: rows of the embedding.
        d_model: width of the residual stream.
        blocks: in order.
        final_norm: behind the last block.
        mask: who sees whom.
        learned_positions: rows of a learned embedding of positions that is added to the tokens', and so the
            longest text; None for none.
        relative: a bias of all blocks' logits by distance, of which there is one set of parameters.
        pooling: at which token of ``Encoded.last`` the pooled vector stands; None for none.
        projection: the pooled vector's width behind a projection; None for none.
        family: what it was read as and is written back as; None if it has no such form.
        notes: keys of the configuration that do not change the model, to be written back.

    Raises:
        ValueError: a projection without pooling, or a bias of other heads than the blocks'.
    """

    vocab_size: int
    d_model: int
    blocks: tuple[EncoderBlock, ...]
    final_norm: Norm
    mask: Mask = BIDIRECTIONAL
    learned_positions: int | None = None
    relative: RelativeBias | None = None
    pooling: Pooling | None = None
    projection: int | None = None
    family: str | None = None
    notes: tuple[tuple[str, Any], ...] = field(default=())

    def __post_init__(self) -> None:
        if self.projection is not None and self.pooling is None:
            raise ValueError(f"TextEncoder: projection={self.projection} without a pooling; give one")
        for block in self.blocks:
            if self.relative is not None and block.mixer.num_heads != self.relative.num_heads:
                raise ValueError(
                    f"TextEncoder: the bias of relative positions is of {self.relative.num_heads} heads, the "
                    f"blocks have {block.mixer.num_heads}"
                )

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        tables = {"embed": (self.vocab_size, "vocab"), "positions": (self.learned_positions, None)}
        tree: ParamTree = {
            name: {"weight": Param((rows, self.d_model), (axis, "embed"), Normal(0.02))}
            for name, (rows, axis) in tables.items()
            if rows is not None
        }
        tree["blocks"] = {str(i): block.spec() for i, block in enumerate(self.blocks)}
        tree |= layer_specs(final_norm=self.final_norm, relative=self.relative)
        if self.projection is not None:
            shape = (self.projection, self.d_model)
            tree["projection"] = {"w": Param(shape, (None, "embed"), FanIn(self.d_model))}
        return tree

    def encode(
        self, params: Params, tokens: Int[Array, "B S"], seen: Bool[Array, "B S"] | None = None
    ) -> Encoded:
        """See `EncodesText`.

        Raises:
            ValueError: tokens are no [B, S], or more than the learned positions.
        """
        if tokens.ndim != 2 or not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"tokens: expected integers [B, S], got {tokens.dtype}{list(tokens.shape)}")
        size = tokens.shape[1]
        if self.learned_positions is not None and size > self.learned_positions:
            raise ValueError(f"{size} tokens, but the encoder has learned {self.learned_positions} positions")
        x = params["embed"]["weight"][tokens]
        if self.learned_positions is not None:
            x = x + params["positions"]["weight"][:size]
        window = fresh_window(tokens, mask=restricted(self.mask, seen))
        bias = None
        if self.relative is not None:
            bias = self.relative.of(params["relative"], jnp.arange(size))
        states = [x]
        for i, block in enumerate(self.blocks):
            states.append(block.forward(params["blocks"][str(i)], states[-1], window, bias))
        last = self.final_norm(params["final_norm"], states[-1])
        return Encoded(states=tuple(states), last=last, pooled=self._pooled(params, last, tokens))

    def _pooled(
        self, params: Params, last: Float[Array, "B S D"], tokens: Int[Array, "B S"]
    ) -> Float[Array, "B P"] | None:
        if self.pooling is None:
            return None
        vector = pooled(self.pooling, last, tokens)
        return vector if self.projection is None else linear(vector, params["projection"]["w"])
