"""Settling a batch of prompts of different lengths: a loop of peeks and commits over windows."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced
from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import next_window
from jaxmodels.models.depth import ALL_LAYERS, Depth
from jaxmodels.models.inputs import Inputs
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.scored import NOWHERE, Scored, check_taps

C = TypeVar("C", bound=Cache)


def prefill(
    config: LanguageModel,
    params: Params,
    inputs: Inputs,
    lengths: Int[Array, "B"],
    cache: C,
    window: int,
    *,
    depth: Depth = ALL_LAYERS,
) -> tuple[Float[Array, "B D"], C]:
    """Commits the first ``lengths[b]`` tokens of each row; gives the hidden state of each row's last token.

    They follow the rows' histories, which must be short enough not to be encoded anew for them. Rotations go
    by the length of the whole sequence. Inside a compiled program, where lengths have no value yet, tokens
    that find no slot in the cache are left out, and the last token is the last that found one.

    Prompts longer than `window` are fed in windows of that size, as many as the longest row needs, so that
    working memory is bounded by the window and not by the prompt. S must then be a multiple of `window`.

    Raises:
        ValueError: a prompt is longer than the cache has room for, or S is no multiple of `window`.
    """
    last, cache, _ = prefill_with_taps(config, params, inputs, lengths, cache, window, (), depth=depth)
    return last, cache


def prefill_with_taps(
    config: LanguageModel,
    params: Params,
    inputs: Inputs,
    lengths: Int[Array, "B"],
    cache: C,
    window: int,
    taps: Sequence[str],
    *,
    depth: Depth = ALL_LAYERS,
) -> tuple[Float[Array, "B D"], C, dict[str, Float[Array, "B S D"]]]:
    """`prefill`, and what `peek` calls `taps` of all prompt tokens; meaningless at padding.

    Raises ValueError, besides, for a tap that the model does not have.
    """
    (batch, size), known = inputs.shape[:2], cache.length + lengths
    check_taps(taps, getattr(config, "tap_names", taps))
    if size <= window:
        whole = next_window(inputs, cache.length, valid=lengths, known=known, mask=config.mask)
        scored, pending = config.score(
            params, inputs, cache, whole, depth=depth, taps=taps, logits_at=NOWHERE
        )
        cache = config.commit(pending)
        _check_settled(known, cache.length)
        return _at(scored.hidden, pending.valid - 1), cache, scored.taps
    if size % window:
        raise ValueError(f"prefill: {size} prompt slots are not a multiple of the window {window}")

    def score(start: Array, cache: C) -> tuple[Scored, Any]:
        part = lax.dynamic_slice_in_dim(inputs, start, window, axis=1)
        valid = jnp.clip(lengths - start, 0, window)
        shown = next_window(part, cache.length, valid=valid, known=known, mask=config.mask)
        return config.score(params, part, cache, shown, depth=depth, taps=taps, logits_at=NOWHERE)

    def feed(index: Array, carry: Any) -> Any:
        last, cache, seen = carry
        start = index * window
        scored, pending = score(start, cache)
        goes_on = pending.valid > 0
        last = jnp.where(goes_on[:, None], _at(scored.hidden, pending.valid - 1), last)
        seen = {
            name: lax.dynamic_update_slice_in_dim(all_, scored.taps[name], start, axis=1)
            for name, all_ in seen.items()
        }
        return last, config.commit(pending), seen

    one, _ = jax.eval_shape(score, jnp.zeros((), jnp.int32), cache)
    last = jnp.zeros((batch, one.hidden.shape[-1]), one.hidden.dtype)
    seen = {name: jnp.zeros((batch, size, tap.shape[-1]), tap.dtype) for name, tap in one.taps.items()}
    last, cache, seen = lax.fori_loop(0, -(-lengths.max() // window), feed, (last, cache, seen))
    _check_settled(known, cache.length)
    return last, cache, seen


def _check_settled(lengths: Int[Array, "B"], settled: Int[Array, "B"]) -> None:
    """Raises ValueError where a row's tokens did not all find a slot, if that is known."""
    if is_traced(lengths) or is_traced(settled):
        return
    for row, (length, found) in enumerate(zip(np.asarray(lengths), np.asarray(settled), strict=True)):
        if found < length:
            raise ValueError(f"prefill: row {row} has {length} tokens, the cache has room for {found}")


def _at(hidden: Float[Array, "B S D"], index: Int[Array, "B"]) -> Float[Array, "B D"]:
    index = jnp.clip(index, 0, hidden.shape[1] - 1)
    return jax.vmap(lambda row, i: lax.dynamic_index_in_dim(row, i, 0, keepdims=False))(hidden, index)
