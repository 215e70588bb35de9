"""Keys and values of the whole canvas are kept; a step recomputes those of a few places."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.masked.caches.kept import Kept
from jaxmodels.decoding.masked.caches.rewriting import (
    begin_rewritten,
    check_interval,
    check_rewrites,
    rewrite_all,
    rewrite_due,
    score_from,
)
from jaxmodels.decoding.masked.canvas import Canvas
from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel


@dataclass(frozen=True, kw_only=True)
class Dual:
    """A step recomputes the block alone, and reads what was kept of all the rest, on both sides.

    Everything is computed anew when a block begins, and after every `interval` steps of a block. What a step
    reads is otherwise as old as that: the tokens that were filled in since have changed nothing outside the
    block. With ``interval=1`` the answer is that of `Recompute`. Attention only. Source: Wu et al. 2025
    (Fast-dLLM), which does not recompute inside a block.

    Attributes:
        interval: steps of a block after which everything is computed anew; None: none.

    Raises:
        ValueError: `interval` is below 1.
    """

    interval: int | None = None

    scores_all = True

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def check(self, config: LanguageModel, length: int) -> None:
        check_rewrites(self, config)

    def begin(
        self,
        config: LanguageModel,
        params: Params,
        request: Request,
        canvas: Canvas,
        cache: Cache,
        window: int,
    ) -> Kept:
        return begin_rewritten(config, params, canvas, cache)

    def score(
        self, config: LanguageModel, params: Params, canvas: Canvas, kept: Kept, length: int
    ) -> tuple[Float[Array, "B L V"], Kept]:
        kept = rewrite_due(config, params, canvas, kept, self.interval)
        return score_from(config, params, canvas, kept, length, length)

    def advance(
        self,
        config: LanguageModel,
        params: Params,
        canvas: Canvas,
        kept: Kept,
        length: int,
        finished: Bool[Array, "B"],
    ) -> Kept:
        return rewrite_all(config, params, canvas, kept, finished)


@dataclass(frozen=True, kw_only=True)
class PrefixCache:
    """A step recomputes the block and all that follows it, and reads what was kept of the tokens before.

    The rest is as `Dual` has it. Source: Wu et al. 2025 (Fast-dLLM).

    Attributes:
        interval: see `Dual`.

    Raises:
        ValueError: `interval` is below 1.
    """

    interval: int | None = None

    scores_all = True

    def __post_init__(self) -> None:
        check_interval(self.interval)

    def check(self, config: LanguageModel, length: int) -> None:
        check_rewrites(self, config)

    def begin(
        self,
        config: LanguageModel,
        params: Params,
        request: Request,
        canvas: Canvas,
        cache: Cache,
        window: int,
    ) -> Kept:
        return begin_rewritten(config, params, canvas, cache)

    def score(
        self, config: LanguageModel, params: Params, canvas: Canvas, kept: Kept, length: int
    ) -> tuple[Float[Array, "B L V"], Kept]:
        kept = rewrite_due(config, params, canvas, kept, self.interval)
        return score_from(config, params, canvas, kept, length, max(length, canvas.answer_slots))

    def advance(
        self,
        config: LanguageModel,
        params: Params,
        canvas: Canvas,
        kept: Kept,
        length: int,
        finished: Bool[Array, "B"],
    ) -> Kept:
        return rewrite_all(config, params, canvas, kept, finished)


jax.tree_util.register_dataclass(Dual, ["interval"], [])
jax.tree_util.register_dataclass(PrefixCache, ["interval"], [])
