"""A second model as the drafter: one step of it per token, which is not looked at again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.decoding.draft_windows import even_without_choice, fold_keys, in_rows_that_run
from jaxmodels.decoding.drafters.drafter import HIDDEN, LIMIT, STOP, Proposal, Round, Verdict
from jaxmodels.decoding.processors.chain import process
from jaxmodels.decoding.samplers import Greedy
from jaxmodels.decoding.strategy import has_choice
from jaxmodels.decoding.trees import fixed_tree
from jaxmodels.layers.spec import Params
from jaxmodels.models.chain import Choose, peek_chain
from jaxmodels.models.language_model import Cache, LanguageModel, Pending
from jaxmodels.models.prefill import prefill
from jaxmodels.models.rows import take_rows
from jaxmodels.models.scored import NOWHERE, Scored
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, eq=False)
class Draft:
    """A model that drafts. A pytree: the configuration is static, the parameters are data."""

    config: LanguageModel
    params: Params = field(repr=False)


class HasParams(Protocol):
    """A configuration and its parameters, such as a `jaxmodels.Model`."""

    @property
    def config(self) -> LanguageModel: ...
    @property
    def params(self) -> Params: ...


def as_draft(value: Any) -> Draft | str:
    """The `Draft` of a model; a name stays one.

    Raises ValueError for anything else.
    """
    if isinstance(value, str) or is_traced(value):
        return value
    config: Any = getattr(value, "config", None)
    params: Any = getattr(value, "params", None)
    if not isinstance(config, LanguageModel) or not (isinstance(params, Mapping) or is_traced(params)):
        raise ValueError(
            f"draft must be a model, a Draft(config, params) or the name of a model, got {shown(value)}"
        )
    return value if isinstance(value, Draft) else Draft(config, dict(params))


def loaded(draft: Draft | HasParams | str) -> Draft:
    """The draft, unless it is still a name; then ValueError."""
    if not isinstance(draft, Draft):
        raise ValueError(f"draft {draft!r} is a name, which Model.generate loads; give a model here")
    return draft


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelDrafter:
    """A chain of `size` tokens by another model, under the same sampler and processors.

    Any architecture with the same vocabulary will do. Drafting G tokens costs G steps of the draft, and one
    more where all of them were accepted; where no row of the batch drafts on, none is taken. A draft whose
    cache evicts tokens as others arrive (`D2O`, `InfiniPotV`, `LServe`) could not take rejected tokens back:
    it is shown all tokens drafted so far anew for each further one.

    Attributes:
        draft: a model, a `Draft`, or the name of a model, which `Model.generate` loads.
        size: tokens drafted per round.

    Raises:
        ValueError: `draft` is none of these, or `size` is below 1; when run, a draft of another vocabulary.
    """

    draft: Draft | HasParams | str
    size: int = 4
    obeys: ClassVar[frozenset[str]] = LIMIT | STOP | HIDDEN

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", as_draft(self.draft))
        object.__setattr__(self, "size", whole("size", self.size, low=1))

    @property
    def taps(self) -> tuple[str, ...]:
        return ()

    def begin(self, around: Round, taps: Mapping[str, Float[Array, "B S D"]]) -> Cache:
        """The state is the draft's cache: all tokens but the newest."""
        return begin_draft(loaded(self.draft), around, self.size)

    def propose(self, state: Cache, around: Round) -> tuple[Proposal, Pending]:
        return draft_levels(loaded(self.draft), state, around, (1,) * self.size)

    def settle(self, pending: Pending, around: Round, verdict: Verdict) -> Cache:
        return settle_draft(loaded(self.draft), pending, around, verdict, range(self.size))


@struct.dataclass
class Levels:
    """What has been drafted so far.

    Attributes:
        chain: i32[B, L], the first token of each level, from which the next level goes on.
        others: i32[B, L, W-1], the most probable others.
        distributions: f32[B, L, V], what the first tokens were drawn from; None where they are certain.
        sure: f32[B, L], the probabilities that the draft itself gives them; made only where they are read.
        judged: f32[B], see `Judging`.
    """

    chain: jax.Array
    others: jax.Array
    distributions: jax.Array | None
    sure: jax.Array
    judged: jax.Array


def begin_draft(draft: Draft, around: Round, size: int) -> Cache:
    """The draft's cache behind the prompts, with room for the answer and `size` tokens.

    Raises ValueError where the vocabularies differ.
    """
    request = around.request
    check_same_vocabulary(draft, around.config)
    (batch, slots), width = request.tokens.shape, around.output.tokens.shape[1]
    cache = draft.config.init_cache(batch, slots + width + size, draft.config.dtype_of(draft.params))
    _, cache = prefill(
        draft.config, draft.params, request.tokens, request.lengths, cache, around.prefill_window
    )
    return cache


def check_same_vocabulary(draft: Draft, config: LanguageModel) -> None:
    """Raises ValueError where the vocabularies of a draft and a model differ in size."""
    if draft.config.vocab_size != config.vocab_size:
        raise ValueError(
            f"draft: its vocabulary has {draft.config.vocab_size} tokens and the model's "
            f"{config.vocab_size}; they must be the same"
        )


def draft_levels(
    draft: Draft, cache: Cache, around: Round, siblings: Sequence[int]
) -> tuple[Proposal, Pending]:
    """As many tokens per level as `siblings` says, of which the first is the sampler's and has the children.

    The others are the most probable ones beside it, without chance. One step of the draft per level, as many
    as the round's `limit` asks for and none behind a level whose first token `stop` ends the draft at.
    """
    plan = planned(around, draft.config.vocab_size, siblings)
    drafted, pending = peek_chain(
        draft.config,
        draft.params,
        around.token,
        cache,
        len(siblings),
        plan.choose,
        plan.nothing,
        valid=in_rows_that_run(around.output, plan.levels),
    )
    return plan.proposal(drafted, pending.valid), pending


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How a round drafts levels of tokens. Built anew in each trace.

    Attributes:
        siblings: tokens of each level.
        levels: i32[B], the most levels to draft in this round.
        choose: chooses a level's tokens, see `peek_chain`.
        nothing: what `choose` carries in front of the first.
    """

    siblings: tuple[int, ...]
    levels: Int[Array, "B"]
    choose: Choose
    nothing: Levels

    def proposal(self, drafted: Levels, count: Int[Array, "B"]) -> Proposal:
        """The first `count` levels, one behind the other."""
        return _proposal(drafted, count, self.siblings)


def planned(around: Round, vocabulary: int, siblings: Sequence[int]) -> Plan:
    """The plan of a round whose draft is as `draft_levels` describes it."""
    batch, levels, beside = around.token.shape[0], len(siblings), max(siblings) - 1
    certain = isinstance(around.sampler, Greedy)
    numbers = jnp.asarray(first_of_levels(siblings)[1:]) - 1  # of each level's first token

    def choose(i: Array, scored: Scored, drafted: Levels) -> tuple[Array, Array, Levels]:
        def put(whole: Array, level: Array) -> Array:
            return lax.dynamic_update_slice_in_dim(whole, level[:, None], i, axis=1)

        scores = process(
            around.processors, scored.logits, around.request, around.output, drafted.chain, first=i
        )
        scores = even_without_choice(scores, has_choice(scores))[:, 0]
        token = around.sampler(scores, fold_keys(around.keys, i))
        distributions = drafted.distributions
        if distributions is not None:
            distributions = put(distributions, around.sampler.probabilities(scores))
        others = drafted.others
        if beside:
            is_token = jnp.arange(vocabulary) == token[:, None]
            others = put(others, lax.top_k(jnp.where(is_token, -jnp.inf, scores), beside)[1])
        probability = probability_of(scores, token)
        sure = put(drafted.sure, probability)
        judged = drafted.judged
        if around.judge is not None:
            judged = probability = around.judge(judged, i, scored.hidden[:, 0])
        ends = around.stop(numbers[i], probability)
        return token, ~ends, Levels(put(drafted.chain, token), others, distributions, sure, judged)

    return Plan(
        siblings=tuple(siblings),
        levels=jnp.searchsorted(jnp.asarray([0, *accumulate(siblings)]), around.limit),
        choose=choose,
        nothing=Levels(
            chain=jnp.zeros((batch, levels), jnp.int32),
            others=jnp.zeros((batch, levels, beside), jnp.int32),
            distributions=None if certain else jnp.zeros((batch, levels, vocabulary), jnp.float32),
            sure=jnp.zeros((batch, levels), jnp.float32),
            judged=jnp.ones((batch,), jnp.float32),
        ),
    )


def probability_of(scores: Float[Array, "B V"], token: Int[Array, "B"]) -> Float[Array, "B"]:
    """What the softmax of scores gives one token of each row."""
    score = jnp.take_along_axis(scores, token[:, None], axis=1)[:, 0]
    return jnp.exp(score - jax.nn.logsumexp(scores, axis=-1))


def settle_draft(
    draft: Draft,
    pending: Pending,
    around: Round,
    verdict: Verdict,
    fed: Sequence[int],
    rows: Int[Array, "B"] | None = None,
    behind: int = 1,
) -> Cache:
    """The draft's cache once it holds what was accepted.

    The draft has been shown the window tokens `fed`, or the first of them. An accepted path follows them but
    for up to `behind` tokens at its end, by default one, which may be another or the last one drafted: those
    it is shown in one more step. That step is a loop of no or one turn, since a `lax.cond` would copy the
    cache. Where each row was drafted several times, `rows` says which of the draft's rows, in equal numbers
    for each, it goes on with.
    """
    size = min(len(fed), verdict.path.shape[1])
    same = verdict.path[:, :size] == jnp.asarray(fed[:size])
    drafts = pending.valid.shape[0] // verdict.count.shape[0]
    shown = pending.valid if rows is None else pending.valid[rows]
    kept = jnp.minimum(jnp.cumprod(same, axis=1).sum(1), jnp.minimum(verdict.count, shown))
    missing = verdict.count - kept
    history = jnp.concatenate([around.token[:, None], verdict.tokens], axis=1)
    places = jnp.minimum(kept[:, None] + jnp.arange(behind), history.shape[1] - 1)
    tokens = jnp.take_along_axis(history, places, axis=1)

    def catch_up(turn: Array, cache: Cache) -> Cache:
        _, pending = draft.config.peek(draft.params, tokens, cache, valid=missing, logits_at=NOWHERE)
        return draft.config.commit(pending)

    if rows is None:
        cache = draft.config.commit(pending, kept)
    else:
        cache = take_rows(draft.config.commit(pending, jnp.repeat(kept, drafts)), rows)
    return lax.fori_loop(0, (missing > 0).any().astype(jnp.int32), catch_up, cache)


def first_of_levels(siblings: Sequence[int]) -> tuple[int, ...]:
    """The window indices of the newest token and of each level's first drafted token."""
    return (0, *(1 + before for before in accumulate(siblings[:-1], initial=0)))


def _proposal(drafted: Levels, count: Int[Array, "B"], siblings: Sequence[int]) -> Proposal:
    """See `Plan.proposal`."""
    tokens, distributions = [], []
    for level, width in enumerate(siblings):
        others = drafted.others[:, level, : width - 1]
        tokens.append(jnp.concatenate([drafted.chain[:, level : level + 1], others], axis=1))
        if drafted.distributions is not None:
            drawn = drafted.distributions[:, level : level + 1]
            distributions += [drawn, jax.nn.one_hot(others, drawn.shape[-1], dtype=drawn.dtype)]
    tree = None
    if max(siblings) > 1:
        firsts = first_of_levels(siblings)
        parents = [0] * siblings[0]
        for level, width in enumerate(siblings[1:]):
            parents += [firsts[level + 1]] * width
        tree = fixed_tree(parents, drafted.chain.shape[0])
    return Proposal(
        tokens=jnp.concatenate(tokens, axis=1),
        count=jnp.asarray([0, *accumulate(siblings)])[count],
        tree=tree,
        distributions=jnp.concatenate(distributions, axis=1) if distributions else None,
        probabilities=drafted.sure if tree is None and not distributions else None,
    )


register_dataclass(Draft, ["params"], ["config"])
register_dataclass(ModelDrafter, ["draft"], ["size"])
