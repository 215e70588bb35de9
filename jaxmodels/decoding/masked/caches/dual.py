"""Keys and values of the whole canvas are kept; a step recomputes those of a few places."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.masked.caches.kept import Kept, once_if_any
from jaxmodels.decoding.masked.canvas import Canvas, look
from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.spec import Params
from jaxmodels.models.filling import filling_of
from jaxmodels.models.language_model import Cache, LanguageModel, RewritesHistory
from jaxmodels.models.scored import NOWHERE


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
        _check_interval(self.interval)

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
        _check_interval(self.interval)

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


def begin_rewritten(config: LanguageModel, params: Params, canvas: Canvas, cache: Cache) -> Kept:
    """The whole canvas as the model's history."""
    _, pending = config.peek(params, canvas.tokens, cache, valid=canvas.length, logits_at=NOWHERE)
    return Kept(cache=config.commit(pending), refreshes=jnp.ones_like(canvas.start))


def rewrite_all(
    config: LanguageModel, params: Params, canvas: Canvas, kept: Kept, rows: Bool[Array, "B"]
) -> Kept:
    """Every entry of these rows computed anew, if there are any rows."""
    slots = jnp.broadcast_to(canvas.places, canvas.tokens.shape)

    def update(kept: Kept) -> Kept:
        valid = jnp.where(rows, canvas.length, 0)
        _, cache = _refresh(config)(params, canvas.tokens, kept.cache, slots, valid=valid, logits_at=NOWHERE)
        return replace(kept, cache=cache, refreshes=kept.refreshes + rows)

    return once_if_any(rows, update, kept)


def rewrite_due(
    config: LanguageModel, params: Params, canvas: Canvas, kept: Kept, interval: int | None
) -> Kept:
    """Everything anew in rows that are a multiple of `interval` steps, at least one, into their block."""
    if interval is None:
        return kept
    due = (canvas.step > 0) & (canvas.step % interval == 0)
    return rewrite_all(config, params, canvas, kept, due)


def score_from(
    config: LanguageModel, params: Params, canvas: Canvas, kept: Kept, length: int, width: int
) -> tuple[Float[Array, "B L V"], Kept]:
    """The entries of the `width` places from the block's first one on computed anew, and the logits that
    speak of the first `length` of them.

    Where logits speak of the place behind their own, the place in front of the block is computed as well.
    """
    filling = filling_of(config)
    offset = 0 if filling is None else filling.offset
    first = jnp.maximum(canvas.start - offset, 0)
    places = first[:, None] + jnp.arange(width + offset, dtype=jnp.int32)
    valid = jnp.clip(canvas.length - first, 0, width + offset)
    at = jnp.maximum(canvas.start[:, None] + jnp.arange(length) - offset, 0) - first[:, None]
    scored, cache = _refresh(config)(
        params, look(canvas.tokens, places), kept.cache, places, valid=valid, logits_at=at
    )
    return scored.logits, replace(kept, cache=cache)


def _refresh(config: LanguageModel) -> Callable[..., tuple[Any, Any]]:
    assert isinstance(config, RewritesHistory)
    return config.refresh


def check_rewrites(policy: Any, config: LanguageModel) -> None:
    """Raises ValueError where a model has no verb that recomputes single tokens of its history."""
    if not isinstance(config, RewritesHistory):
        raise ValueError(
            f"cache={type(policy).__name__}() recomputes single tokens of the history, which "
            f"{type(config).__name__} has no verb for; use Recompute()"
        )


def _check_interval(interval: Int[Array, ""] | int | None) -> None:
    if interval is not None and not is_traced(interval):
        whole("interval", interval, low=1)


jax.tree_util.register_dataclass(Dual, ["interval"], [])
jax.tree_util.register_dataclass(PrefixCache, ["interval"], [])
