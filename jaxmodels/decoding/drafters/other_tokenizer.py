"""A second model with another tokenizer as the drafter: it drafts what both vocabularies can say."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.decoding.draft_windows import even_without_choice, fold_keys, in_rows_that_run
from jaxmodels.decoding.drafters.drafter import Proposal, Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import Draft, HasParams, as_draft, loaded, probability_of
from jaxmodels.decoding.processors.chain import process
from jaxmodels.decoding.samplers import Greedy
from jaxmodels.decoding.strategy import has_choice
from jaxmodels.decoding.vocabulary_map import VocabularyMap
from jaxmodels.models.chain import peek_chain
from jaxmodels.models.language_model import Cache, Pending
from jaxmodels.models.prefill import prefill
from jaxmodels.models.scored import NOWHERE
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Reader:
    """Where the draft stands in the text.

    Attributes:
        cache: all of the text's pieces but the last.
        piece: i32[B], the last piece of the newest token.
    """

    cache: Any
    piece: jax.Array


@dataclass(frozen=True, kw_only=True, eq=False)
class OtherTokenizer:
    """A chain of `size` tokens by a model with another vocabulary.

    The draft reads the text in tokens of its own, its pieces, and drafts tokens that both vocabularies have:
    its distribution over those, made whole again, is that of the model's tokens, under the same sampler and
    processors. So sampling stays exact, and greedy decoding gives the model's text. A token that the draft
    lacks is never drafted; it is shown its pieces once the model has said it.

    Source: token-level intersection of https://arxiv.org/abs/2502.05202 (`UniversalSpeculativeDecoding` of
    transformers). There a text is encoded anew by the draft's tokenizer; here each token is cut into pieces
    by a table, without leaving the device, so that pieces may differ from what that tokenizer would make of
    the whole text. That changes what is drafted, and not what comes out.

    Attributes:
        draft: a model or a `Draft`; see `ModelDrafter`.
        vocabulary: how the model's tokens are told in the draft's, see `map_vocabularies`.
        size: tokens drafted per round.

    Raises:
        ValueError: `draft` or `vocabulary` is none, or `size` is below 1; when run, a map of other
            vocabularies than those of model and draft.
    """

    draft: Draft | HasParams | str
    vocabulary: VocabularyMap
    size: int = 4

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", as_draft(self.draft))
        object.__setattr__(self, "size", whole("size", self.size, low=1))
        if not is_traced(self.vocabulary) and not isinstance(self.vocabulary, VocabularyMap):
            raise ValueError(
                f"vocabulary must be a VocabularyMap, as map_vocabularies gives, got {shown(self.vocabulary)}"
            )

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Reader:
        draft, table, request = loaded(self.draft), self.vocabulary, around.request
        for name, mapped, has in (
            ("model", table.shared.shape[0], around.config.vocab_size),
            ("draft", table.draft_size, draft.config.vocab_size),
        ):
            if mapped != has:
                raise ValueError(
                    f"vocabulary: the map is of a {name} with {mapped} tokens, and the {name} has {has}"
                )
        (batch, slots), width = request.tokens.shape, around.output.tokens.shape[1]
        capacity = (slots + width) * table.longest + self.size
        cache = draft.config.init_cache(batch, capacity, draft.config.dtype_of(draft.params))
        text = jnp.concatenate([request.tokens, jnp.zeros_like(request.tokens[:, :1])], axis=1)
        text = text.at[jnp.arange(batch), request.lengths].set(around.token)
        pieces, lengths = _in_pieces(table, text, request.lengths + 1)
        last = jnp.take_along_axis(pieces, lengths[:, None] - 1, axis=1)[:, 0]
        window = min(around.prefill_window, pieces.shape[1])
        pieces = jnp.pad(pieces, ((0, 0), (0, -pieces.shape[1] % window)))
        _, cache = prefill(draft.config, draft.params, pieces, lengths - 1, cache, window)
        return Reader(cache=cache, piece=last)

    def propose(self, state: Reader, around: Round) -> tuple[Proposal, Any]:
        draft, shared = loaded(self.draft), self.vocabulary.shared
        batch, vocabulary = around.token.shape[0], shared.shape[0]

        def choose(i: Array, logits: Float[Array, "B W"], drafted: Proposal) -> tuple[Array, Array, Proposal]:
            told = jnp.where(shared >= 0, logits[:, jnp.maximum(shared, 0)], -jnp.inf)
            scores = process(
                around.processors, told[:, None], around.request, around.output, drafted.tokens, first=i
            )
            scores = even_without_choice(scores, has_choice(scores))[:, 0]
            token = around.sampler(scores, fold_keys(around.keys, i))
            distributions = drafted.distributions
            if distributions is not None:
                probabilities = around.sampler.probabilities(scores)
                distributions = lax.dynamic_update_slice_in_dim(
                    distributions, probabilities[:, None], i, axis=1
                )
            tokens = lax.dynamic_update_slice_in_dim(drafted.tokens, token[:, None], i, axis=1)
            goes_on = ~around.stop(i, probability_of(scores, token)) & (shared[token] >= 0)
            count = drafted.count
            return jnp.maximum(shared[token], 0), goes_on, Proposal(tokens, count, None, distributions)

        certain = isinstance(around.sampler, Greedy)
        empty = Proposal(
            tokens=jnp.zeros((batch, self.size), jnp.int32),
            count=jnp.zeros((batch,), jnp.int32),
            distributions=None if certain else jnp.zeros((batch, self.size, vocabulary)),
        )
        drafted, pending = peek_chain(
            draft.config, draft.params, state.piece, state.cache, self.size, choose, empty,
            valid=in_rows_that_run(around.output, jnp.minimum(around.limit, self.size)),
        )  # fmt: skip
        return drafted.replace(count=pending.valid), (pending, state.piece)

    def settle(self, pending: tuple[Pending, Array], around: Round, verdict: Verdict) -> Reader:
        """The draft is shown what it did not draft: the last drafted token where all were accepted, and the
        pieces of the newest token but the last."""
        draft, table = loaded(self.draft), self.vocabulary
        chain, piece = pending
        kept = jnp.minimum(verdict.count, chain.valid)
        is_missing = (verdict.count > kept).astype(jnp.int32)
        before = jnp.take_along_axis(verdict.tokens, jnp.maximum(kept - 1, 0)[:, None], axis=1)[:, 0]
        missing = jnp.where(kept > 0, jnp.maximum(table.shared[before], 0), piece)
        newest = jnp.take_along_axis(verdict.tokens, jnp.maximum(verdict.count - 1, 0)[:, None], axis=1)[:, 0]
        pieces, runs = table.pieces[newest], verdict.count > 0
        fed = jnp.where(
            is_missing[:, None] > 0, jnp.concatenate([missing[:, None], pieces[:, :-1]], axis=1), pieces
        )
        size = jnp.where(runs, is_missing + table.lengths[newest] - 1, 0)
        last = jnp.take_along_axis(pieces, table.lengths[newest][:, None] - 1, axis=1)[:, 0]

        def catch_up(turn: Array, cache: Cache) -> Cache:
            _, pending = draft.config.peek(draft.params, fed, cache, valid=size, logits_at=NOWHERE)
            return draft.config.commit(pending)

        cache = draft.config.commit(chain, kept)
        cache = lax.fori_loop(0, (size > 0).any().astype(jnp.int32), catch_up, cache)
        return Reader(cache=cache, piece=jnp.where(runs, last, piece))


def _in_pieces(
    table: VocabularyMap, tokens: Int[Array, "B S"], lengths: Int[Array, "B"]
) -> tuple[Int[Array, "B S*M"], Int[Array, "B"]]:
    """The pieces of each row's first ``lengths[b]`` tokens, one behind the other, and how many they are."""
    batch, size = tokens.shape
    counts = jnp.where(jnp.arange(size) < lengths[:, None], table.lengths[tokens], 0)
    ends = jnp.cumsum(counts, axis=1)
    places = (ends - counts)[:, :, None] + jnp.arange(table.longest)
    is_there = jnp.arange(table.longest) < counts[:, :, None]
    places = jnp.where(is_there, places, size * table.longest).reshape(batch, -1)
    found = jnp.zeros((batch, size * table.longest), jnp.int32)
    pieces = table.pieces[tokens].reshape(batch, -1)
    return found.at[jnp.arange(batch)[:, None], places].set(pieces, mode="drop"), ends[:, -1]


register_dataclass(OtherTokenizer, ["draft", "vocabulary"], ["size"])
