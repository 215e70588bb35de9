"""A second model with another tokenizer as the drafter: it drafts in its own tokens, told by their text."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.drafters.drafter import LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.drafters.model_drafter import Draft, HasParams, as_draft, loaded, probability_of
from jaxmodels.decoding.drafters.reader import Reader, read_on, read_prompts
from jaxmodels.decoding.text_map import TextMap, reencode
from jaxmodels.models.chain import peek_chain
from jaxmodels.models.language_model import Pending
from jaxmodels.models.scored import Scored
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class _Drafted:
    """What `settle` needs of a proposal.

    Attributes:
        chain: the window in which the draft drafted.
        own: i32[B, 1+N], the piece with which it begins, and the draft's tokens behind it.
        ends: i32[B, G], where the text of each proposed token ends.
    """

    chain: Pending
    own: Array
    ends: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class ReencodedDrafter:
    """A chain of up to `size` tokens: the text that a model with another vocabulary goes on with.

    The draft says its own most probable tokens, those that the model lacks too. Their text is cut into the
    model's tokens, each the longest that the text has there. The model verifies them as certain: there is no
    distribution over its vocabulary that they were drawn from. So the text is that of the model, greedy or
    sampled, and `OtherTokenizer`, which knows the distribution of what it draws, may be accepted more where
    tokens are drawn. Processors are those of the model alone.

    Where the drafted text ends inside a token of the model, that token is not proposed. A tokenizer that
    merges pairs may cut a text otherwise than by longest tokens, as may the draft's own with respect to the
    pieces that it is shown (see `reader`). That costs acceptance, and changes nothing that comes out.

    Source: universal assisted generation (`AssistedCandidateGeneratorDifferentTokenizers` of transformers).
    There the last 10 tokens are decoded and encoded anew in each direction, and aligned by the longest common
    diagonal of old and new tokens, since the text of a window may begin with other tokens than the whole.
    Here texts are aligned by their bytes: it is known where each token ends, the drafted text begins where
    the newest token ends, and drafted tokens are history up to where an accepted token ends with one of them.

    Attributes:
        draft: a model or a `Draft`; see `ModelDrafter`.
        texts: the two vocabularies, see `map_texts`.
        size: tokens proposed per round at most.
        draft_tokens: tokens that the draft says per round at most, as many as `size` where it is None.

    Raises:
        ValueError: `draft` or `texts` is none, or a number is below 1; when run, a map of other vocabularies
            than those of model and draft.
    """

    draft: Draft | HasParams | str
    texts: TextMap
    size: int = 4
    draft_tokens: int | None = None
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", as_draft(self.draft))
        object.__setattr__(self, "size", whole("size", self.size, low=1))
        if self.draft_tokens is not None:
            object.__setattr__(self, "draft_tokens", whole("draft_tokens", self.draft_tokens, low=1))
        if not is_traced(self.texts) and not isinstance(self.texts, TextMap):
            raise ValueError(f"texts must be a TextMap, as map_texts gives, got {shown(self.texts)}")

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    @property
    def varies(self) -> bool:
        """A text of a fixed number of the draft's tokens is more or fewer of the model's."""
        return True

    @property
    def _steps(self) -> int:
        return self.size if self.draft_tokens is None else self.draft_tokens

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Reader:
        return read_prompts(loaded(self.draft), self.texts.vocabulary, around, self._steps)

    def propose(self, state: Reader, around: Round) -> tuple[Proposal, _Drafted]:
        draft, texts, steps = loaded(self.draft), self.texts, self._steps

        def choose(
            i: Array, scored: Scored, drafted: Int[Array, "B N"]
        ) -> tuple[Array, Array, Int[Array, "B N"]]:
            logits = scored.logits[:, 0]
            token = jnp.argmax(logits, axis=-1).astype(jnp.int32)
            has_text = texts.starts[token + 1] > texts.starts[token]
            goes_on = has_text & ~around.stop(i, probability_of(logits, token))
            return token, goes_on, lax.dynamic_update_slice_in_dim(drafted, token[:, None], i, axis=1)

        # A limit below `size` leaves the draft its part of the steps.
        most = -(-jnp.minimum(around.limit, self.size) * steps // self.size)
        drafted, chain = peek_chain(
            draft.config, draft.params, state.piece, state.cache, steps, choose,
            jnp.zeros((around.token.shape[0], steps), jnp.int32),
            valid=in_rows_that_run(around.output, most),
        )  # fmt: skip
        tokens, ends, count = reencode(texts, drafted, chain.valid, self.size)
        own = jnp.concatenate([state.piece[:, None], drafted], axis=1)
        return Proposal(tokens=tokens, count=count), _Drafted(chain=chain, own=own, ends=ends)

    def settle(self, pending: _Drafted, around: Round, verdict: Verdict) -> Reader:
        """The draft's own tokens stay up to the last accepted token that ends with one of them.

        They stay only while they are no more than the table would have made of the text, which is what the
        cache has room for.
        """
        table, drafted = self.texts.vocabulary, pending.own[:, 1:]
        stops = self.texts.text_ends(drafted, pending.chain.valid)
        said, told = jnp.arange(1, self._steps + 1), jnp.arange(1, self.size + 1)
        is_said = (said <= pending.chain.valid[:, None]) & (jnp.diff(stops, axis=1, prepend=0) > 0)
        is_accepted = told < verdict.count[:, None]
        meet = (pending.ends[:, :, None] == stops[:, None]) & is_said[:, None] & is_accepted[:, :, None]
        meet &= said <= told[:, None] * table.longest
        return read_on(
            loaded(self.draft), table, pending.chain, pending.own,
            kept=jnp.where(meet, said, 0).max((1, 2)),
            told=jnp.where(meet, told[:, None], 0).max((1, 2)),
            verdict=verdict,
        )  # fmt: skip


register_dataclass(ReencodedDrafter, ["draft", "texts"], ["size", "draft_tokens"])
