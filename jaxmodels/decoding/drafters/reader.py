"""The history of a draft with another tokenizer: the text in its own tokens, which are called pieces.

A text is not encoded anew: each token of the model is cut into pieces by a table, so that nothing leaves the
device. The pieces may differ from what the draft's tokenizer would make of the whole text.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxmodels.decoding.drafters.drafter import Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import Draft
from jaxmodels.decoding.vocabulary_map import VocabularyMap
from jaxmodels.models.language_model import Cache, Pending
from jaxmodels.models.prefill import prefill
from jaxmodels.models.scored import NOWHERE


@struct.dataclass
class Reader:
    """Where the draft stands in the text.

    Attributes:
        cache: all of the text's pieces but the last.
        piece: i32[B], the last piece of the newest token.
    """

    cache: Any
    piece: jax.Array


def read_prompts(draft: Draft, table: VocabularyMap, around: Round, size: int) -> Reader:
    """The draft behind the prompts and the first token, with room for all that is said and `size` more.

    Raises ValueError for a map of other vocabularies than those of model and draft.
    """
    request = around.request
    for name, mapped, has in (
        ("model", table.shared.shape[0], around.config.vocab_size),
        ("draft", table.draft_size, draft.config.vocab_size),
    ):
        if mapped != has:
            raise ValueError(
                f"vocabulary: the map is of a {name} with {mapped} tokens, and the {name} has {has}"
            )
    (batch, slots), width = request.tokens.shape, around.output.tokens.shape[1]
    capacity = (slots + width) * table.longest + size
    cache = draft.config.init_cache(batch, capacity, draft.config.dtype_of(draft.params))
    text = jnp.concatenate([request.tokens, jnp.zeros_like(request.tokens[:, :1])], axis=1)
    text = text.at[jnp.arange(batch), request.lengths].set(around.token)
    pieces, lengths = _in_pieces(table, text, jnp.arange(slots + 1) <= request.lengths[:, None])
    last = jnp.take_along_axis(pieces, lengths[:, None] - 1, axis=1)[:, 0]
    window = min(around.prefill_window, pieces.shape[1])
    pieces = jnp.pad(pieces, ((0, 0), (0, -pieces.shape[1] % window)))
    _, cache = prefill(draft.config, draft.params, pieces, lengths - 1, cache, window)
    return Reader(cache=cache, piece=last)


def read_on(
    draft: Draft,
    table: VocabularyMap,
    chain: Pending,
    own: Int[Array, "B N"],
    kept: Int[Array, "B"],
    told: Int[Array, "B"],
    verdict: Verdict,
) -> Reader:
    """The draft behind a verdict: it is shown what it has not drafted itself, in as few windows as hold that.

    Args:
        chain: the window in which it drafted.
        own: the piece with which the window begins, and the pieces drafted behind it, of which the last has
            not been shown.
        kept: how many of those drafted are part of the text.
        told: how many leading tokens of the verdict these stand for, fewer than there are.
    """
    runs, is_missing = verdict.count > 0, (kept >= chain.valid).astype(jnp.int32)
    missing = jnp.take_along_axis(own, kept[:, None], axis=1)
    place = jnp.arange(verdict.tokens.shape[1])
    is_new = (place >= told[:, None]) & (place < verdict.count[:, None])
    pieces, lengths = _in_pieces(table, verdict.tokens, is_new)
    last = jnp.take_along_axis(pieces, jnp.maximum(lengths - 1, 0)[:, None], axis=1)[:, 0]
    size = jnp.where(runs, is_missing + lengths - 1, 0)
    window = table.longest
    fed = jnp.where(
        is_missing[:, None] > 0,
        jnp.concatenate([missing, pieces], axis=1),
        jnp.pad(pieces, ((0, 0), (0, 1))),
    )
    fed = jnp.pad(fed, ((0, 0), (0, -fed.shape[1] % window)))

    def catch_up(turn: Array, cache: Cache) -> Cache:
        shown = lax.dynamic_slice_in_dim(fed, turn * window, window, axis=1)
        valid = jnp.clip(size - turn * window, 0, window)
        _, pending = draft.config.peek(draft.params, shown, cache, valid=valid, logits_at=NOWHERE)
        return draft.config.commit(pending)

    cache = draft.config.commit(chain, jnp.where(runs, jnp.minimum(kept + 1, chain.valid), 0))
    cache = lax.fori_loop(0, -(-size.max() // window), catch_up, cache)
    return Reader(cache=cache, piece=jnp.where(runs, last, own[:, 0]))


def _in_pieces(
    table: VocabularyMap, tokens: Int[Array, "B S"], is_read: Bool[Array, "B S"]
) -> tuple[Int[Array, "B S*M"], Int[Array, "B"]]:
    """The pieces of the tokens that are read, one behind the other, and how many they are in each row."""
    batch, size = tokens.shape
    counts = jnp.where(is_read, table.lengths[tokens], 0)
    ends = jnp.cumsum(counts, axis=1)
    places = (ends - counts)[:, :, None] + jnp.arange(table.longest)
    is_there = jnp.arange(table.longest) < counts[:, :, None]
    places = jnp.where(is_there, places, size * table.longest).reshape(batch, -1)
    found = jnp.zeros((batch, size * table.longest), jnp.int32)
    pieces = table.pieces[tokens].reshape(batch, -1)
    return found.at[jnp.arange(batch)[:, None], places].set(pieces, mode="drop"), ends[:, -1]
