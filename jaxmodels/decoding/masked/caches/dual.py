"""Keys and values of the whole canvas are kept; a step recomputes those of a few places."""

from dataclasses import dataclass

from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.masked.caches.kept import Kept, Shown
from jaxmodels.decoding.masked.caches.rewriting import (
    begin_rewritten,
    check_interval,
    check_rewrites,
    rewrite_all,
    rewrite_due,
    score_from,
)
from jaxmodels.decoding.strategy import Request
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.pytrees import register_dataclass


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

    def begin(self, shown: Shown, request: Request, cache: Cache, window: int) -> Kept:
        return begin_rewritten(shown, cache)

    def score(self, shown: Shown, kept: Kept) -> tuple[Float[Array, "B L V"], Kept]:
        kept = rewrite_due(shown, kept, self.interval)
        return score_from(shown, kept, shown.length)

    def advance(self, shown: Shown, kept: Kept, finished: Bool[Array, "B"]) -> Kept:
        return rewrite_all(shown, kept, finished)


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

    def begin(self, shown: Shown, request: Request, cache: Cache, window: int) -> Kept:
        return begin_rewritten(shown, cache)

    def score(self, shown: Shown, kept: Kept) -> tuple[Float[Array, "B L V"], Kept]:
        kept = rewrite_due(shown, kept, self.interval)
        return score_from(shown, kept, max(shown.length, shown.canvas.answer_slots))

    def advance(self, shown: Shown, kept: Kept, finished: Bool[Array, "B"]) -> Kept:
        return rewrite_all(shown, kept, finished)


register_dataclass(Dual, ["interval"], [])
register_dataclass(PrefixCache, ["interval"], [])
