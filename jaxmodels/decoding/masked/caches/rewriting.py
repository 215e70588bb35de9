"""Entries of the canvas computed anew: what the caches share that keep all of it."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.masked.caches.kept import Kept, Shown, once_if_any
from jaxmodels.decoding.masked.canvas import look
from jaxmodels.models.language_model import Cache, LanguageModel, RewritesHistory
from jaxmodels.models.scored import NOWHERE


def begin_rewritten(shown: Shown, cache: Cache) -> Kept:
    """The whole canvas as the model's history."""
    config, canvas = shown.config, shown.canvas
    _, pending = config.peek(shown.params, canvas.tokens, cache, valid=canvas.length, logits_at=NOWHERE)
    return Kept(cache=config.commit(pending), refreshes=jnp.ones_like(canvas.start))


def rewrite_all(shown: Shown, kept: Kept, rows: Bool[Array, "B"]) -> Kept:
    """Every entry of these rows computed anew, if there are any rows."""
    first = jnp.zeros_like(shown.canvas.start)
    return rewrite_from(shown, kept, rows, first, shown.canvas.tokens.shape[1])


def rewrite_from(
    shown: Shown, kept: Kept, rows: Bool[Array, "B"], first: Int[Array, "B"], width: int
) -> Kept:
    """The `width` entries from the place `first` on computed anew in these rows, if there are any rows."""
    canvas, slots = shown.canvas, first[:, None] + jnp.arange(width, dtype=jnp.int32)

    def update(kept: Kept) -> Kept:
        valid = jnp.where(rows, jnp.clip(canvas.length - first, 0, width), 0)
        tokens = look(canvas.tokens, slots)
        _, cache = _refresh(shown.config)(
            shown.params, tokens, kept.cache, slots, valid=valid, logits_at=NOWHERE
        )
        return replace(kept, cache=cache, refreshes=kept.refreshes + rows)

    return once_if_any(rows, update, kept)


def rewrite_due(shown: Shown, kept: Kept, interval: int | None) -> Kept:
    """Everything anew in rows that are a multiple of `interval` steps, at least one, into their block."""
    if interval is None:
        return kept
    step = shown.canvas.step
    return rewrite_all(shown, kept, (step > 0) & (step % interval == 0))


def score_from(shown: Shown, kept: Kept, width: int) -> tuple[Float[Array, "B L V"], Kept]:
    """The entries of the `width` places from the block's first one on computed anew, and the logits that
    speak of the block.

    Where logits speak of the place behind their own, the place in front of the block is computed as well.
    """
    canvas, offset = shown.canvas, shown.offset
    first = jnp.maximum(canvas.start - offset, 0)
    places = first[:, None] + jnp.arange(width + offset, dtype=jnp.int32)
    valid = jnp.clip(canvas.length - first, 0, width + offset)
    at = jnp.maximum(shown.places - offset, 0) - first[:, None]
    scored, cache = _refresh(shown.config)(
        shown.params, look(canvas.tokens, places), kept.cache, places, valid=valid, logits_at=at
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


def check_interval(interval: Int[Array, ""] | int | None) -> None:
    if interval is not None and not is_traced(interval):
        whole("interval", interval, low=1)
