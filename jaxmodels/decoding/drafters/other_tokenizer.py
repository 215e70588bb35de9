"""A second model with another tokenizer as the drafter: it drafts what both vocabularies can say."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.decoding.draft_windows import even_without_choice, fold_keys, in_rows_that_run
from jaxmodels.decoding.drafters.chains import Chain, Chosen, empty_chain, proposal_of, with_token
from jaxmodels.decoding.drafters.drafter import LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import Draft, HasParams, as_draft, loaded, probability_of
from jaxmodels.decoding.drafters.reader import Reader, read_on, read_prompts
from jaxmodels.decoding.processors.chain import process
from jaxmodels.decoding.strategy import has_choice
from jaxmodels.decoding.vocabulary_map import VocabularyMap
from jaxmodels.models.chain import peek_chain
from jaxmodels.models.language_model import Pending
from jaxmodels.models.scored import Scored
from jaxmodels.pytrees import register_dataclass


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
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP

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
        return read_prompts(loaded(self.draft), self.vocabulary, around, self.size)

    def propose(self, state: Reader, around: Round) -> tuple[Proposal, Any]:
        draft, shared = loaded(self.draft), self.vocabulary.shared

        def choose(i: Array, scored: Scored, drafted: Chain) -> tuple[Array, Array, Chain]:
            told = jnp.where(shared >= 0, scored.logits[:, :, jnp.maximum(shared, 0)], -jnp.inf)
            scores = process(around.processors, told, around.request, around.output, drafted.tokens, first=i)
            scores = even_without_choice(scores, has_choice(scores))[:, 0]
            token = around.sampler(scores, fold_keys(around.keys, i))
            drawn_from = None if drafted.distributions is None else around.sampler.probabilities(scores)
            drafted = with_token(around, drafted, i, Chosen(token, probability_of(scores, token), drawn_from))
            return jnp.maximum(shared[token], 0), drafted.goes_on & (shared[token] >= 0), drafted

        drafted, pending = peek_chain(
            draft.config, draft.params, state.piece, state.cache, self.size, choose,
            empty_chain(around, self.size),
            valid=in_rows_that_run(around.output, jnp.minimum(around.limit, self.size)),
        )  # fmt: skip
        return replace(proposal_of(drafted), count=pending.valid), (pending, state.piece)

    def settle(self, pending: tuple[Pending, Array], around: Round, verdict: Verdict) -> Reader:
        """The accepted tokens are the draft's own, but for the newest, which it is shown in pieces."""
        table = self.vocabulary
        chain, piece = pending
        own = jnp.concatenate([piece[:, None], jnp.maximum(table.shared[verdict.tokens], 0)], axis=1)
        accepted = jnp.maximum(verdict.count - 1, 0)
        return read_on(loaded(self.draft), table, chain, own, kept=accepted, told=accepted, verdict=verdict)


register_dataclass(OtherTokenizer, ["draft", "vocabulary"], ["size"])
