"""EAGLE-3: a decoder layer that reads a token beside the features of three of the target's layers.

    g = fc([h_low | h_mid | h_high])                      of the target, or the head's own last output
    x = g + attention([norm(embedding) | norm(g)]);  x = x + ffn(norm(x));  logits = lm_head(norm(x))

What it feeds back for g is x, in front of the last norm. Source: https://arxiv.org/abs/2503.01840 and its
published weights; the variants of norms are those of the `speculators` library.

A parallel head (P-EAGLE) predicts several tokens in one pass: where a pair's token and feature are not there
yet, it reads the embedding of one token that stands for them, and learned streams in the place of the
target's. Source: the weights and the training that `speculators` publishes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import whole
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.linear import linear
from jaxmodels.layers.masks import CAUSAL, MaskLike
from jaxmodels.layers.mlp import FeedForward
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import FanIn, Normal, Param, Params, ParamTree
from jaxmodels.layers.window import Window, next_window, ropes_of
from jaxmodels.models.block import DecoderBlock, Stream, layer_specs
from jaxmodels.models.draft_heads.feature_head import (
    Predicted,
    Target,
    check_streams,
    check_vocabulary,
    check_width,
    embeddings_of,
)
from jaxmodels.models.draft_heads.history import History, empty_history, pass_blocks
from jaxmodels.models.language_model import LanguageModel
from jaxmodels.models.scored import EVERYWHERE, LogitsAt, logits_where

# Norms of the target's streams in front of `fc`: none, one of all together, or one of each.
StreamNorms = Literal["none", "joint", "each"]


@dataclass(frozen=True, kw_only=True)
class FusingBlock:
    """A layer whose attention reads embedding and feature side by side, and adds to the feature.

    Attributes:
        embedding_norm, feature_norm: of what attention reads.
        mixer: attention whose input is twice as wide as its output.
        ffn_norm, ffn: as in a `Block`.
        norm_before_residual: attention adds to the normalised feature.
    """

    embedding_norm: Norm
    feature_norm: Norm
    mixer: Attention
    ffn_norm: Norm
    ffn: FeedForward
    norm_before_residual: bool = False

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        return ropes_of(self.mixer)

    def spec(self) -> ParamTree:
        return layer_specs(
            embedding_norm=self.embedding_norm,
            feature_norm=self.feature_norm,
            mixer=self.mixer,
            ffn_norm=self.ffn_norm,
            ffn=self.ffn,
        )

    def state_spec(self, batch: int, capacity: int) -> Any:
        return self.mixer.state_spec(batch, capacity)

    def parts(self, state: Any) -> tuple[tuple[Attention, Any], ...]:
        return ((self.mixer, state),)

    def inputs(self, params: Params, stream: Stream) -> Float[Array, "B S I"]:
        """What attention reads."""
        embedded = self.embedding_norm(params["embedding_norm"], stream.embedded)
        return jnp.concatenate([embedded, self._normed(params, stream)], axis=-1)

    def join(self, params: Params, stream: Stream, mixed: Float[Array, "B S D"]) -> Stream:
        """The stream behind the block, from what attention gave."""
        if self.norm_before_residual:
            stream = replace(stream, hidden=self._normed(params, stream))
        stream = stream.add(mixed)
        return stream.add(self.ffn(params["ffn"], self.ffn_norm(params["ffn_norm"], stream.narrow())))

    def forward(self, params: Params, stream: Stream, window: Window) -> Stream:
        mixed = self.mixer.forward(params["mixer"], self.inputs(params, stream), window)
        return self.join(params, stream, mixed)

    def write(self, params: Params, stream: Stream, state: Any, window: Window) -> tuple[Any, Any]:
        return self.mixer.write(params["mixer"], self.inputs(params, stream), state, window)

    def read(self, params: Params, stream: Stream, held: Any, pending: Any, window: Window) -> Stream:
        return self.join(params, stream, self.mixer.read(params["mixer"], held, pending, window))

    def commit(self, pending: Any, n: Array | None = None, path: Array | None = None) -> Any:
        return self.mixer.commit(pending, n, path)

    def _normed(self, params: Params, stream: Stream) -> Float[Array, "B S D"]:
        return self.feature_norm(params["feature_norm"], stream.narrow())


@dataclass(frozen=True, kw_only=True)
class Eagle3:
    """The head. Static and hashable; its parameters are `spec`.

    Attributes:
        target_vocab_size: the target's vocabulary.
        vocab_size: tokens that it predicts, fewer where it knows the most frequent ones alone.
        target_width: width of the target's streams.
        d_model: width of the head.
        layers: the target's streams that it reads: 0 is the embeddings, i what is behind block i - 1.
        blocks: a `FusingBlock`, and plain ones behind it.
        norm: in front of the output head.
        stream_norm: of one of the target's streams, or of all side by side, as `stream_norms` says.
        stream_norms: where the norms of the streams stand.
        norm_output: what is fed back is normalised.
        own_embedding: whether it has embeddings of its own; else it shares the target's.
        mask_token: what a parallel head reads for tokens that are not there yet, one of the target's; None
            for a head that goes on from its own features.
        layout: the published form that it was read in and is written in; see `checkpoints/draft_heads`.

    Raises:
        ValueError: it shares embeddings of another width than its own, `stream_norm` does not go with
            `stream_norms`, or `mask_token` is none of the target's tokens.
    """

    target_vocab_size: int
    vocab_size: int
    target_width: int
    d_model: int
    layers: tuple[int, ...]
    blocks: tuple[DecoderBlock, ...]
    norm: Norm
    stream_norm: Norm | None = None
    stream_norms: StreamNorms = "none"
    norm_output: bool = False
    own_embedding: bool = False
    mask_token: int | None = None
    layout: str | None = None

    def __post_init__(self) -> None:
        if not self.own_embedding and self.target_width != self.d_model:
            raise ValueError(
                f"Eagle3: a head of width {self.d_model} cannot share the embeddings of a target of width "
                f"{self.target_width}; it needs its own"
            )
        if (self.stream_norm is None) != (self.stream_norms == "none"):
            raise ValueError(
                f"Eagle3: stream_norm={self.stream_norm} does not go with stream_norms={self.stream_norms!r}"
            )
        if self.mask_token is not None:
            whole("Eagle3: mask_token", self.mask_token, high=self.target_vocab_size - 1)

    @property
    def taps(self) -> tuple[str, ...]:
        return tuple("embeddings" if layer == 0 else f"blocks/{layer - 1}" for layer in self.layers)

    def spec(self) -> ParamTree:
        read = len(self.layers) * self.target_width
        tree: ParamTree = {
            "fc": {"weight": Param((self.d_model, read), ("embed", None), FanIn(read))},
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            "norm": self.norm.spec(),
            "head": {"weight": Param((self.vocab_size, self.d_model), ("vocab", "embed"), Normal(0.02))},
        }
        if self.own_embedding:
            shape = (self.target_vocab_size, self.d_model)
            tree["embed"] = {"weight": Param(shape, ("vocab", "embed"), Normal(0.02))}
        if self.mask_token is not None:
            tree["mask_streams"] = Param((read,), (None,), Normal(1.0))
        if self.stream_norm is not None and self.stream_norms == "joint":
            tree["stream_norm"] = self.stream_norm.spec()
        elif self.stream_norm is not None:
            tree["stream_norm"] = {str(i): self.stream_norm.spec() for i in range(len(self.layers))}
        return tree

    def check_target(self, target: LanguageModel) -> None:
        check_width("Eagle3", self.target_width, target)
        check_vocabulary("Eagle3", self.target_vocab_size, target)
        check_streams("Eagle3", self.taps, target)

    def features(self, params: Params, taps: Mapping[str, Float[Array, "B S D"]]) -> Float[Array, "B S F"]:
        return self._fused(params, [taps[name].astype(params["fc"]["weight"].dtype) for name in self.taps])

    def mask_feature(self, params: Params) -> Float[Array, "F"]:
        """What a parallel head reads for the feature of a token that is not there yet."""
        return self._fused(params, jnp.split(params["mask_streams"], len(self.layers)))

    def _fused(self, params: Params, streams: list[Float[Array, "... D"]]) -> Float[Array, "... F"]:
        if self.stream_norm is not None and self.stream_norms == "each":
            norms = params["stream_norm"]
            streams = [self.stream_norm(norms[str(i)], stream) for i, stream in enumerate(streams)]
        joined = jnp.concatenate(streams, axis=-1)
        if self.stream_norm is not None and self.stream_norms == "joint":
            joined = self.stream_norm(params["stream_norm"], joined)
        return linear(joined, params["fc"]["weight"])

    def init_history(self, batch: int, capacity: int) -> History:
        return empty_history(self.blocks, batch, capacity)

    def extend(
        self,
        params: Params,
        target: Target,
        tokens: Int[Array, "B S"],
        features: Float[Array, "B S F"],
        history: History,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike = CAUSAL,
        valid: Int[Array, "B"],
        logits_at: LogitsAt = EVERYWHERE,
    ) -> tuple[Predicted, History]:
        """See `FeatureHead.extend`."""
        window = next_window(tokens, history.length, positions=positions, valid=valid, mask=mask)
        stream = self.begin(params, target, tokens, features)
        stream, history = pass_blocks(self.blocks, params["blocks"], stream, history, window)
        return self.predict(params, stream, logits_at), history

    def begin(
        self, params: Params, target: Target, tokens: Int[Array, "B S"], features: Float[Array, "B S F"]
    ) -> Stream:
        """The stream in front of the first block."""
        embedded = params["embed"]["weight"][tokens] if self.own_embedding else embeddings_of(target, tokens)
        return Stream(hidden=features, embedded=embedded.astype(features.dtype))

    def predict(self, params: Params, stream: Stream, logits_at: LogitsAt = EVERYWHERE) -> Predicted:
        """What the stream behind the last block says."""
        normed = self.norm(params["norm"], stream.narrow())

        def head(x: Float[Array, "B P D"]) -> Float[Array, "B P V"]:
            return linear(x, params["head"]["weight"], jnp.float32)

        logits = logits_where(head, normed, logits_at)
        return Predicted(logits=logits, features=normed if self.norm_output else stream.hidden)
