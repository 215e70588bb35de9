"""Settling a batch of prompts of different lengths: a loop of peeks and commits over windows."""

from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.spec import Params
from jaxmodels.layers.window import next_window

if TYPE_CHECKING:
    from jaxmodels.models.decoder import Cache, Decoder  # which encodes histories anew by `prefill`


def prefill(
    config: "Decoder",
    params: Params,
    tokens: Int[Array, "B S"],
    lengths: Int[Array, "B"],
    cache: "Cache",
    window: int,
) -> tuple[Float[Array, "B D"], "Cache"]:
    """Commits the first ``lengths[b]`` tokens of each row; gives the hidden state of each row's last token.

    Rows that are given tokens must have no history. Rotations go by the length of the whole prompt.

    Prompts longer than `window` are fed in windows of that size, as many as the longest row needs, so that
    working memory is bounded by the window and not by the prompt. S must then be a multiple of `window`.
    """
    batch, size = tokens.shape
    if size <= window:
        whole = next_window(tokens, cache.length, valid=lengths, known=lengths)
        hidden, pending = config.score_hidden(params, tokens, cache, whole)
        return _at(hidden, lengths - 1), config.commit(pending)
    if size % window:
        raise ValueError(f"prefill: {size} prompt slots are not a multiple of the window {window}")

    def feed(index: Array, carry: "tuple[Array, Cache]") -> "tuple[Array, Cache]":
        last, cache = carry
        start = index * window
        part = lax.dynamic_slice_in_dim(tokens, start, window, axis=1)
        valid = jnp.clip(lengths - start, 0, window)
        shown = next_window(part, cache.length, valid=valid, known=lengths)
        hidden, pending = config.score_hidden(params, part, cache, shown)
        ends_here = (lengths > start) & (lengths <= start + window)
        last = jnp.where(ends_here[:, None], _at(hidden, valid - 1), last)
        return last, config.commit(pending)

    dtype = params["embed"]["weight"].dtype
    last = jnp.zeros((batch, config.d_model), dtype)
    return lax.fori_loop(0, -(-lengths.max() // window), feed, (last, cache))


def _at(hidden: Float[Array, "B S D"], index: Int[Array, "B"]) -> Float[Array, "B D"]:
    index = jnp.clip(index, 0, hidden.shape[1] - 1)
    return jax.vmap(lambda row, i: lax.dynamic_index_in_dim(row, i, 0, keepdims=False))(hidden, index)
