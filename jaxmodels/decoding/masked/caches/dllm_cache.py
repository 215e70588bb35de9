"""Keys and values of the whole canvas are kept, those of the prompt longer than those of the answer."""

from dataclasses import dataclass, replace

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.masked.caches.kept import Kept, Shown
from jaxmodels.decoding.masked.caches.rewriting import (
    begin_rewritten,
    check_interval,
    check_rewrites,
    rewrite_all,
    rewrite_from,
    score_from,
)
from jaxmodels.decoding.strategy import Request
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class DLLMCache:
    """A step recomputes the block; every `answer_interval` steps the whole answer is computed anew, and every
    `prompt_interval` steps the prompt with it. Steps count from the beginning of the answer.

    With intervals of 1 the answer is that of `Recompute`. Attention only. Source: Liu et al. 2025
    (dLLM-Cache, https://arxiv.org/abs/2506.06295), its two intervals and their values for LLaDA-Instruct.
    Between them the paper computes in each layer the values of all answer tokens, and recomputes the quarter
    of those that changed most; here the block stands in the place of these, which is inferred: it holds the
    tokens that change.

    Attributes:
        prompt_interval: steps after which the prompt is computed anew.
        answer_interval: steps after which the answer is.

    Raises:
        ValueError: an interval is below 1.
    """

    prompt_interval: int = 50
    answer_interval: int = 7

    scores_all = True

    def __post_init__(self) -> None:
        check_interval(self.prompt_interval)
        check_interval(self.answer_interval)

    def check(self, config: LanguageModel, length: int) -> None:
        check_rewrites(self, config)

    def begin(self, shown: Shown, request: Request, cache: Cache, window: int) -> Kept:
        return replace(begin_rewritten(shown, cache), memory=jnp.zeros_like(shown.canvas.start))

    def score(self, shown: Shown, kept: Kept) -> tuple[Float[Array, "B L V"], Kept]:
        steps = kept.memory
        prompts = (steps > 0) & (steps % self.prompt_interval == 0)
        answers = (steps > 0) & (steps % self.answer_interval == 0) & ~prompts
        kept = rewrite_all(shown, kept, prompts)
        kept = rewrite_from(shown, kept, answers, shown.canvas.prompt, shown.canvas.answer_slots)
        return score_from(shown, replace(kept, memory=steps + 1), shown.length)

    def advance(self, shown: Shown, kept: Kept, finished: Bool[Array, "B"]) -> Kept:
        return kept


register_dataclass(DLLMCache, ["prompt_interval", "answer_interval"], [])
