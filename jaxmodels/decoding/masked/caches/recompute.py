"""No cache: every step reads the whole canvas."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.masked.caches.kept import Kept
from jaxmodels.decoding.masked.canvas import Canvas, block_places
from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.spec import Params
from jaxmodels.models.filling import filling_of
from jaxmodels.models.language_model import Cache, LanguageModel


@dataclass(frozen=True)
class Recompute:
    """Every step reads prompt and answer anew, unknown tokens included: what the models were trained for.

    The head is computed for the block alone. Source: the samplers of Nie et al. 2025 (LLaDA) and Ye et al.
    2025 (Dream), which compute it everywhere.
    """

    scores_all = True

    def check(self, config: LanguageModel, length: int) -> None:
        """It serves every model."""

    def begin(
        self,
        config: LanguageModel,
        params: Params,
        request: Request,
        canvas: Canvas,
        cache: Cache,
        window: int,
    ) -> Kept:
        return Kept(cache=cache, refreshes=jnp.zeros_like(canvas.start))

    def score(
        self, config: LanguageModel, params: Params, canvas: Canvas, kept: Kept, length: int
    ) -> tuple[Float[Array, "B L V"], Kept]:
        filling = filling_of(config)
        offset = 0 if filling is None else filling.offset
        at = jnp.clip(block_places(canvas, length) - offset, 0, canvas.tokens.shape[1] - 1)
        scored, pending = config.peek(params, canvas.tokens, kept.cache, valid=canvas.length, logits_at=at)
        return scored.logits, replace(kept, cache=config.commit(pending, jnp.zeros_like(canvas.start)))

    def advance(
        self,
        config: LanguageModel,
        params: Params,
        canvas: Canvas,
        kept: Kept,
        length: int,
        finished: Bool[Array, "B"],
    ) -> Kept:
        return kept


jax.tree_util.register_dataclass(Recompute, [], [])
