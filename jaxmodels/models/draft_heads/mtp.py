"""Multi-token prediction: modules that a model was trained with, each of which predicts one token further.

Module k reads pairs: what stands at place i behind module k - 1, or for k = 0 behind the model's final norm,
and token i + 1 + k.

    z_i = w_embed · norm(E[t_{i+1+k}]) + w_hidden · norm(h_i)
    h'_i = norm(blocks(z)_i);  p(t_{i+2+k}) = head(h'_i)

Embeddings and head are the model's. Source: https://arxiv.org/abs/2412.19437 (DeepSeek-V3, section 2.2),
which prints the halves of the projection in the other order than its weights have them. As in `transformers`
the first h is taken behind the model's final norm, and what is fed back is normalised as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.linear import linear
from jaxmodels.layers.masks import CAUSAL, MaskLike
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.spec import FanIn, Param, Params, ParamTree
from jaxmodels.layers.window import fresh_window, next_window, ropes_of
from jaxmodels.models.block import Block, Stream, layer_specs
from jaxmodels.models.draft_heads.feature_head import (
    Predicted,
    Target,
    check_vocabulary,
    check_width,
    embeddings_of,
)
from jaxmodels.models.draft_heads.history import History, empty_history, pass_blocks
from jaxmodels.models.language_model import BlockStack, LanguageModel
from jaxmodels.models.scored import EVERYWHERE, LogitsAt, logits_where


@dataclass(frozen=True, kw_only=True)
class MTPModule:
    """What predicts one token further.

    Attributes:
        embed_norm, hidden_norm: of a pair's embedding and hidden state.
        blocks: in order.
        final_norm: in front of the model's head, and of the next module.
    """

    embed_norm: RMSNorm
    hidden_norm: RMSNorm
    blocks: tuple[Block, ...]
    final_norm: RMSNorm

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters. The projection is kept in halves."""
        dim = self.hidden_norm.dim
        half = Param((dim, dim), ("embed", None), FanIn(2 * dim))
        return {
            **layer_specs(embed_norm=self.embed_norm, hidden_norm=self.hidden_norm),
            "w_embed": half,
            "w_hidden": half,
            "blocks": {str(i): block.spec() for i, block in enumerate(self.blocks)},
            **layer_specs(final_norm=self.final_norm),
        }

    def extend(
        self,
        params: Params,
        target: Target,
        tokens: Int[Array, "B S"],
        hidden: Float[Array, "B S D"],
        history: History,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike = CAUSAL,
        valid: Int[Array, "B"],
        logits_at: LogitsAt = EVERYWHERE,
    ) -> tuple[Predicted, History]:
        """Reads pairs behind a history, which is spent; see `FeatureHead.extend`."""
        window = next_window(tokens, history.length, positions=positions, valid=valid, mask=mask)
        stream = self._join(params, target, tokens, hidden)
        stream, history = pass_blocks(self.blocks, params["blocks"], stream, history, window)
        return self._predict(params, target, stream, logits_at), history

    def forward(
        self, params: Params, target: Target, tokens: Int[Array, "B S"], hidden: Float[Array, "B S D"]
    ) -> Predicted:
        """Reads whole sequences of pairs, without a history. Differentiable."""
        window = fresh_window(tokens, ropes=ropes_of(*self.blocks))
        stream = self._join(params, target, tokens, hidden)
        for i, block in enumerate(self.blocks):
            stream = block.forward(params["blocks"][str(i)], stream, window)
        return self._predict(params, target, stream, EVERYWHERE)

    def _join(
        self, params: Params, target: Target, tokens: Int[Array, "B S"], hidden: Float[Array, "B S D"]
    ) -> Stream:
        """The pairs in front of the first block."""
        hidden = hidden.astype(params["w_hidden"].dtype)
        embedded = embeddings_of(target, tokens).astype(hidden.dtype)
        embedded = self.embed_norm(params["embed_norm"], embedded)
        hidden = self.hidden_norm(params["hidden_norm"], hidden)
        joined = linear(embedded, params["w_embed"]) + linear(hidden, params["w_hidden"])
        return Stream(hidden=joined, embedded=joined)

    def _predict(self, params: Params, target: Target, stream: Stream, logits_at: LogitsAt) -> Predicted:
        hidden = self.final_norm(params["final_norm"], stream.narrow())
        logits = logits_where(lambda x: target.config.logits(target.params, x), hidden, logits_at)
        return Predicted(logits=logits, features=hidden)


@dataclass(frozen=True, kw_only=True)
class MTPHead:
    """The modules of one model. Static and hashable; their parameters are kept beside the model's.

    As a `FeatureHead` it is its first module, which is given what it made itself to draft on. To draft with
    each module in its turn is `LayeredDrafter`'s work.

    Attributes:
        vocab_size, d_model, num_layers: sizes of the model that it is for.
        modules: in order, one for each further token.
        family: that of the model, which says how checkpoints name the modules; None where nothing does.

    Raises:
        ValueError: there is no module.
    """

    vocab_size: int
    d_model: int
    num_layers: int
    modules: tuple[MTPModule, ...]
    family: str | None = None

    def __post_init__(self) -> None:
        if not self.modules:
            raise ValueError("MTPHead: modules must hold at least one")

    @property
    def layout(self) -> str:
        """The form in which it is written without its model; see `checkpoints/draft_heads/mtp.py`."""
        return "mtp"

    @property
    def taps(self) -> tuple[str, ...]:
        return ("hidden",)

    @property
    def blocks(self) -> tuple[Block, ...]:
        """Those of all modules."""
        return tuple(block for module in self.modules for block in module.blocks)

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        return {"modules": {str(k): module.spec() for k, module in enumerate(self.modules)}}

    def check_target(self, target: LanguageModel) -> None:
        check_width("MTP", self.d_model, target)
        check_vocabulary("MTP", self.vocab_size, target)
        layers = len(target.blocks) if isinstance(target, BlockStack) else None
        if layers != self.num_layers:
            raise ValueError(
                f"MTP: it was made for a model of {self.num_layers} layers, and the target has {layers}"
            )

    def features(self, params: Params, taps: Mapping[str, Float[Array, "B S D"]]) -> Float[Array, "B S D"]:
        return taps["hidden"]

    def init_history(self, batch: int, capacity: int) -> History:
        """See `FeatureHead.init_history`; of any of the modules."""
        return empty_history(self.modules[0].blocks, batch, capacity)

    def extend(
        self,
        params: Params,
        target: Target,
        tokens: Int[Array, "B S"],
        features: Float[Array, "B S D"],
        history: History,
        *,
        positions: Int[Array, "B S"] | None = None,
        mask: MaskLike = CAUSAL,
        valid: Int[Array, "B"],
        logits_at: LogitsAt = EVERYWHERE,
    ) -> tuple[Predicted, History]:
        """See `FeatureHead.extend`."""
        return self.modules[0].extend(
            params["modules"]["0"],
            target,
            tokens,
            features,
            history,
            positions=positions,
            mask=mask,
            valid=valid,
            logits_at=logits_at,
        )

    def forward(
        self, params: Params, target: Target, tokens: Int[Array, "B S"], hidden: Float[Array, "B S D"]
    ) -> tuple[Predicted, ...]:
        """What each module predicts of whole sequences: at place i, module k the token i + 2 + k.

        Differentiable. At the last k + 1 places there is no token to pair with, and what module k says there
        is meaningless.

        Args:
            target: the model and its parameters.
            tokens: the sequences.
            hidden: the model's hidden states of them, behind its final norm.
        """
        predicted = []
        for k, module in enumerate(self.modules):
            following = jnp.roll(tokens, -(k + 1), axis=1)
            predicted.append(module.forward(params["modules"][str(k)], target, following, hidden))
            hidden = predicted[-1].features
        return tuple(predicted)
