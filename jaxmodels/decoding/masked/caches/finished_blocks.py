"""Finished blocks are history: exact where no block sees a later one."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.masked.caches.kept import Kept, Shown, once_if_any
from jaxmodels.decoding.masked.canvas import look
from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.masks import BlockCausal
from jaxmodels.models.language_model import Cache, LanguageModel, Pending
from jaxmodels.models.prefill import prefill
from jaxmodels.models.scored import NOWHERE, Scored
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class FinishedBlocks:
    """A step reads the block against the history of all blocks before it; a finished block becomes history.

    For models of block diffusion, whose blocks see no later ones: the answer is that of `Recompute`. One pass
    more per block, of its known tokens, makes it history. Recurrent layers run each block in its order.
    Source: Arriola et al. 2025 (BD3-LM), and the samplers of SDAR, Fast-dLLM v2 and LLaDA2.0.
    """

    scores_all = True

    def check(self, config: LanguageModel, length: int) -> None:
        if not isinstance(config.mask, BlockCausal):
            raise ValueError(
                f"cache=FinishedBlocks() needs a model whose blocks see no later ones, and this one has "
                f"mask={config.mask}; use Recompute(), or PrefixCache() or Dual(), which approximate it"
            )

    def begin(self, shown: Shown, request: Request, cache: Cache, window: int) -> Kept:
        canvas, prompts = shown.canvas, request.tokens.shape[1]
        last, cache = prefill(
            shown.config, shown.params, canvas.tokens[:, :prompts], canvas.start, cache, window
        )
        return Kept(cache=cache, refreshes=jnp.zeros_like(canvas.start), memory=last)

    def score(self, shown: Shown, kept: Kept) -> tuple[Float[Array, "B L V"], Kept]:
        config, canvas = shown.config, shown.canvas
        scored, pending = _peek(shown, kept, canvas.size)
        hidden = scored.hidden
        if shown.offset:  # the block's first token is spoken of before the block
            hidden = jnp.concatenate([kept.memory[:, None], hidden[:, :-1]], axis=1)
        nothing = jnp.zeros_like(canvas.start)
        return config.logits(shown.params, hidden), replace(kept, cache=config.commit(pending, nothing))

    def advance(self, shown: Shown, kept: Kept, finished: Bool[Array, "B"]) -> Kept:
        def settle(kept: Kept) -> Kept:
            count = jnp.where(finished, shown.canvas.size, 0)
            scored, pending = _peek(shown, kept, count)
            newest = jnp.maximum(count - 1, 0)[:, None, None]
            last = jnp.take_along_axis(scored.hidden, newest, axis=1)[:, 0]
            return Kept(
                cache=shown.config.commit(pending, count),
                refreshes=kept.refreshes + finished,
                memory=jnp.where(finished[:, None], last, kept.memory),
            )

        return once_if_any(finished, settle, kept)


def _peek(shown: Shown, kept: Kept, valid: Int[Array, "B"]) -> tuple[Scored, Pending]:
    """What the model makes of the first `valid` tokens of each row's block."""
    tokens = look(shown.canvas.tokens, shown.places)
    return shown.config.peek(shown.params, tokens, kept.cache, valid=valid, logits_at=NOWHERE)


register_dataclass(FinishedBlocks, [], [])
