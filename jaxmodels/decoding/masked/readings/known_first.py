"""Known tokens in front of unknown ones."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.masks import Causal
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.prefill import prefill
from jaxmodels.models.scored import NOWHERE


@dataclass(frozen=True)
class KnownFirst:
    """A `Reading` for causal models: the known tokens of the window first and the unknown ones behind them,
    each group by its places, and each token at its own position.

    So every unknown token sees all that is known, under the model's causal mask, and known tokens see no
    unknown one: those that follow the history without a gap become history in the pass that reads them,
    exactly. Source: Liu et al. 2025 (WeDLM), its topological reordering.

    Raises:
        ValueError: when run, a model whose tokens see later ones.
    """

    def check(self, config: LanguageModel, window: int) -> None:
        if not isinstance(config.mask, Causal):
            raise ValueError(
                f"StreamingDiffusion: the model's tokens see later ones (mask={config.mask}), so that none "
                "is settled before all are known; decode it with MaskedDiffusion()"
            )

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, window: int
    ) -> Cache:
        return prefill(config, params, request.tokens, request.lengths, cache, window)[1]

    def settled(self, known: Int[Array, "B"]) -> Int[Array, "B"]:
        return known

    def score(
        self,
        config: LanguageModel,
        params: Params,
        tokens: Int[Array, "B W"],
        unknown: Bool[Array, "B W"],
        cache: Cache,
        valid: Int[Array, "B"],
    ) -> tuple[Float[Array, "B W V"], Any]:
        order = jnp.argsort(unknown, axis=1, stable=True).astype(jnp.int32)
        scored, pending = config.peek(
            params,
            jnp.take_along_axis(tokens, order, axis=1),
            cache,
            positions=cache.length[:, None] + order,
            mask=jnp.tri(tokens.shape[1], dtype=bool),
            valid=valid,
            logits_at=NOWHERE,
        )
        back = jnp.argsort(order, axis=1)[:, :, None]
        return config.logits(params, jnp.take_along_axis(scored.hidden, back, axis=1)), pending
