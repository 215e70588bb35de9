"""No cache: every step reads the whole canvas."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.masked.caches.kept import Kept, Shown
from jaxmodels.decoding.strategy import Request
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class Recompute:
    """Every step reads prompt and answer anew, unknown tokens included: what the models were trained for.

    The head is computed for the block alone. Source: the samplers of Nie et al. 2025 (LLaDA) and Ye et al.
    2025 (Dream), which compute it everywhere.
    """

    scores_all = True

    def check(self, config: LanguageModel, length: int) -> None:
        """It serves every model."""

    def begin(self, shown: Shown, request: Request, cache: Cache, window: int) -> Kept:
        return Kept(cache=cache, refreshes=jnp.zeros_like(shown.canvas.start))

    def score(self, shown: Shown, kept: Kept) -> tuple[Float[Array, "B L V"], Kept]:
        config, canvas = shown.config, shown.canvas
        at = jnp.clip(shown.places - shown.offset, 0, canvas.tokens.shape[1] - 1)
        scored, pending = config.peek(
            shown.params, canvas.tokens, kept.cache, valid=canvas.length, logits_at=at
        )
        return scored.logits, replace(kept, cache=config.commit(pending, jnp.zeros_like(canvas.start)))

    def advance(self, shown: Shown, kept: Kept, finished: Bool[Array, "B"]) -> Kept:
        return kept


register_dataclass(Recompute, [], [])
