"""Settling a batch of prompts of different lengths: a loop of peeks and commits over windows."""

from collections.abc import Sequence
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import next_window
from jaxmodels.models.inputs import Inputs
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.scored import NOWHERE, Scored

C = TypeVar("C", bound=Cache)


def prefill(
    config: LanguageModel, params: Params, inputs: Inputs, lengths: Int[Array, "B"], cache: C, window: int
) -> tuple[Float[Array, "B D"], C]:
    """Commits the first ``lengths[b]`` tokens of each row; gives the hidden state of each row's last token.

    Rows that are given tokens must have no history. Rotations go by the length of the whole prompt.

    Prompts longer than `window` are fed in windows of that size, as many as the longest row needs, so that
    working memory is bounded by the window and not by the prompt. S must then be a multiple of `window`.
    """
    last, cache, _ = prefill_with_taps(config, params, inputs, lengths, cache, window, ())
    return last, cache


def prefill_with_taps(
    config: LanguageModel,
    params: Params,
    inputs: Inputs,
    lengths: Int[Array, "B"],
    cache: C,
    window: int,
    taps: Sequence[str],
) -> tuple[Float[Array, "B D"], C, dict[str, Float[Array, "B S D"]]]:
    """`prefill`, and what `peek` calls `taps` of all prompt tokens; meaningless at padding."""
    batch, size = inputs.shape[:2]
    if size <= window:
        whole = next_window(inputs, cache.length, valid=lengths, known=lengths)
        scored, pending = config.score(params, inputs, cache, whole, taps=taps, logits_at=NOWHERE)
        return _at(scored.hidden, lengths - 1), config.commit(pending), scored.taps
    if size % window:
        raise ValueError(f"prefill: {size} prompt slots are not a multiple of the window {window}")

    def score(start: Array, cache: C) -> tuple[Scored, Any]:
        part = lax.dynamic_slice_in_dim(inputs, start, window, axis=1)
        valid = jnp.clip(lengths - start, 0, window)
        shown = next_window(part, cache.length, valid=valid, known=lengths)
        return config.score(params, part, cache, shown, taps=taps, logits_at=NOWHERE)

    def feed(index: Array, carry: Any) -> Any:
        last, cache, seen = carry
        start = index * window
        scored, pending = score(start, cache)
        ends_here = (lengths > start) & (lengths <= start + window)
        last = jnp.where(ends_here[:, None], _at(scored.hidden, lengths - start - 1), last)
        seen = {
            name: lax.dynamic_update_slice_in_dim(all_, scored.taps[name], start, axis=1)
            for name, all_ in seen.items()
        }
        return last, config.commit(pending), seen

    one, _ = jax.eval_shape(score, jnp.zeros((), jnp.int32), cache)
    last = jnp.zeros((batch, one.hidden.shape[-1]), one.hidden.dtype)
    seen = {name: jnp.zeros((batch, size, tap.shape[-1]), tap.dtype) for name, tap in one.taps.items()}
    return lax.fori_loop(0, -(-lengths.max() // window), feed, (last, cache, seen))


def _at(hidden: Float[Array, "B S D"], index: Int[Array, "B"]) -> Float[Array, "B D"]:
    index = jnp.clip(index, 0, hidden.shape[1] - 1)
    return jax.vmap(lambda row, i: lax.dynamic_index_in_dim(row, i, 0, keepdims=False))(hidden, index)
