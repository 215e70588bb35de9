"""Two models write a text in turns of a step each, as a router decides."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.choosing.routers import REGRET, DraftedStep, Router
from jaxmodels.decoding.draft_windows import fold_keys
from jaxmodels.decoding.drafters.model_drafter import Draft, HasParams, as_draft, loaded
from jaxmodels.decoding.processors.chain import Processor, process
from jaxmodels.decoding.processors.token_ids import NamesTokens, checked_ids
from jaxmodels.decoding.samplers import Greedy, Sampler, check_number
from jaxmodels.decoding.strategy import (
    Output,
    Request,
    check_options,
    check_policy,
    emit,
    has_choice,
    record_also,
    row_keys,
    still_running,
    tally,
)
from jaxmodels.layers.spec import Params
from jaxmodels.models.chain import peek_chain
from jaxmodels.models.language_model import Cache, LanguageModel, Pending
from jaxmodels.models.prefill import prefill
from jaxmodels.models.scored import NOWHERE, Scored
from jaxmodels.pytrees import register_dataclass

COUNTERS = ("calls", "steps", "routed", "drafted", "accepted")

# What the draft folds into the key of a row's place. The target samples with that key itself, so that what it
# writes instead of a dropped step owes nothing to the draws of that step.
DRAFT_FOLD = 1


@struct.dataclass
class ArbitrageCarry:
    """What a step hands to the next.

    Attributes:
        cache, draft_cache: all tokens but the newest, of the target and of the draft.
        token: i32[B], the newest token of each row, at first the prompt's last.
        output: what has been generated.
    """

    cache: Cache
    draft_cache: Cache
    token: jax.Array
    output: Output


@struct.dataclass
class _Drafted:
    """A step so far: tokens and their log-probabilities [B, L], whether each could be chosen."""

    tokens: jax.Array
    log_probs: jax.Array
    chosen: jax.Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Arbitrage:
    """Speculation by steps of reasoning: a draft writes a step, and the target writes it anew if that pays.

    A step ends behind a delimiter, after `longest` tokens, or with the row. The draft writes it, the target
    scores it in one call, and the router says from both how much better a step of the target's own is
    expected to be. Above `threshold` the drafted step is dropped and the target writes its own, token by
    token; otherwise it stays, whatever the target would have written. So this is not lossless: the text is
    that of the draft where the router never objects, that of the target where it always does.

    From the abstract of Arbitrage (Advantage-Aware Speculation): drafted steps, a router that is trained to
    predict the target's advantage, and an oracle that it approximates. Inferred: that the router sees the
    target's scores of the drafted step, which its cache needs anyway; the features of `LinearRouter`; the
    limit of a step's length; that the first step begins behind the prompt for both models alike; that draft
    and target sample independently of each other.

    Counted are ``"calls"`` of the target, ``"steps"``, those that the target wrote as ``"routed"``, and
    tokens ``"drafted"`` and ``"accepted"``. Log-probabilities are the target's.

    Attributes:
        draft: a model, a `Draft`, or the name of a model, which `Model.generate` loads.
        delimiters: ids of tokens that end a step, such as that of an empty line.
        longest: most tokens of a step.
        router: see `routers`.
        threshold: how great the advantage must be.
        sampler, processors, top_logprobs, prefill_window: see `Autoregressive`; of both models.

    Raises:
        ValueError: a value outside its range; when run, a draft of another vocabulary.
    """

    draft: Draft | HasParams | str
    delimiters: tuple[int, ...]
    longest: int = 32
    router: Router = REGRET
    threshold: Float[Array, ""] | float = 0.5
    sampler: Sampler = Greedy()
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        object.__setattr__(self, "draft", as_draft(self.draft))
        object.__setattr__(self, "delimiters", checked_ids("delimiters", self.delimiters))
        check_number("threshold", self.threshold, low=-math.inf)
        check_policy("router", self.router, "advantage", "Regret()")
        check_options(self, {"longest": 1})

    @property
    def lookahead(self) -> int:
        return self.longest - 1

    def named_tokens(self) -> Iterable[int]:
        """The delimiters, and what the processors name."""
        yield from self.delimiters
        for processor in self.processors:
            if isinstance(processor, NamesTokens):
                yield from processor.named_tokens()

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> ArbitrageCarry:
        draft = loaded(self.draft)
        if draft.config.vocab_size != config.vocab_size:
            raise ValueError(
                f"draft: its vocabulary has {draft.config.vocab_size} tokens and the model's "
                f"{config.vocab_size}; they must be the same"
            )
        (batch, slots), width = request.tokens.shape, output.tokens.shape[1]
        draft_cache = draft.config.init_cache(
            batch, slots + width + self.longest, draft.config.dtype_of(draft.params)
        )
        before, last = request.lengths - 1, request.lengths[:, None] - 1
        _, cache = prefill(config, params, request.tokens, before, cache, self.prefill_window)
        _, draft_cache = prefill(
            draft.config, draft.params, request.tokens, before, draft_cache, self.prefill_window
        )
        return ArbitrageCarry(
            cache=cache,
            draft_cache=draft_cache,
            token=jnp.take_along_axis(request.tokens, last, axis=1)[:, 0],
            output=record_also(output, COUNTERS, self.top_logprobs),
        )

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: ArbitrageCarry
    ) -> ArbitrageCarry:
        """A step of every row."""
        draft, before = loaded(self.draft), carry
        drafted, draft_pending = self._draft(draft, request, carry)
        count = draft_pending.valid
        window = jnp.concatenate([carry.token[:, None], drafted.tokens[:, :-1]], axis=1)
        scored, pending = config.peek(params, window, carry.cache, valid=count, known=carry.cache.length + 1)
        advantage = self.router.advantage(_judged(drafted, count, scored.logits, scored.hidden))
        routed = ~carry.output.done & (advantage > self.threshold)
        kept = jnp.where(routed, 0, count)
        output = tally(carry.output, calls=1, steps=1, routed=routed, drafted=count, accepted=kept)
        output = replace(
            emit(output, request, drafted.tokens, kept, scored.logits, chosen=drafted.chosen),
            steps=output.steps + 1,
        )
        newest = jnp.take_along_axis(drafted.tokens, jnp.maximum(kept - 1, 0)[:, None], axis=1)[:, 0]
        carry = ArbitrageCarry(
            cache=config.commit(pending, kept),
            draft_cache=draft.config.commit(draft_pending, kept),
            token=jnp.where(kept > 0, newest, carry.token),
            output=output,
        )
        carry = self._write(config, params, request, carry, routed)
        return self._show_draft(draft, before, carry, routed)

    def _draft(self, draft: Draft, request: Request, carry: ArbitrageCarry) -> tuple[_Drafted, Pending]:
        """A step of the draft, and its history with it. The pending's `valid` is the number of tokens."""
        output, size = carry.output, self.longest

        def choose(i: Array, scored: Scored, step: _Drafted) -> tuple[Array, Array, _Drafted]:
            logits: Array = scored.logits
            scores = process(self.processors, logits, request, output, step.tokens, first=i)
            token = self.sampler(scores[:, 0], fold_keys(row_keys(request, output.lengths + i), DRAFT_FOLD))
            found = jnp.take_along_axis(jax.nn.log_softmax(logits[:, 0]), token[:, None], axis=1)
            columns = _Drafted(token[:, None], found, has_choice(scores))
            step = jax.tree.map(
                lambda whole, column: lax.dynamic_update_slice_in_dim(whole, column, i, axis=1), step, columns
            )
            return token, ~self._ends(token) & ~_stops(token, request), step

        empty = jnp.zeros((output.done.shape[0], size))
        step = _Drafted(empty.astype(jnp.int32), empty, empty.astype(bool))
        left = jnp.minimum(request.max_new - output.lengths, size)
        return peek_chain(
            draft.config, draft.params, carry.token, carry.draft_cache, size, choose, step,
            valid=jnp.where(output.done, 0, left),
        )  # fmt: skip

    def _write(
        self,
        config: LanguageModel,
        params: Params,
        request: Request,
        carry: ArbitrageCarry,
        routed: Bool[Array, "B"],
    ) -> ArbitrageCarry:
        """A step by the target in the rows that are routed to it."""

        def goes_on(state: tuple[Array, Array, ArbitrageCarry]) -> Array:
            i, writing, carry = state
            return writing.any() & (i < self.longest) & still_running(carry.output)

        def write(state: tuple[Array, Array, ArbitrageCarry]) -> tuple[Array, Array, ArbitrageCarry]:
            i, writing, carry = state
            shown = writing.astype(jnp.int32)
            scored, pending = config.peek(params, carry.token[:, None], carry.cache, valid=shown)
            output = tally(carry.output, calls=shown)
            logits: Array = scored.logits
            scores = process(self.processors, logits, request, output)
            token: Array = self.sampler(scores[:, 0], row_keys(request, output.lengths))
            token = jnp.where(writing, token, carry.token)
            output = emit(output, request, token[:, None], shown, logits, chosen=has_choice(scores))
            output = replace(output, steps=output.steps + 1)
            writing = writing & ~output.done & ~self._ends(token)
            carry = replace(carry, cache=config.commit(pending), token=token, output=output)
            return i + 1, writing, carry

        return lax.while_loop(goes_on, write, (jnp.asarray(0), routed, carry))[2]

    def _show_draft(
        self, draft: Draft, before: ArbitrageCarry, carry: ArbitrageCarry, routed: Bool[Array, "B"]
    ) -> ArbitrageCarry:
        """The draft is shown what the target wrote. A loop of no or one turn: a `lax.cond` would copy."""
        first = before.output.lengths
        written = jnp.where(routed, carry.output.lengths - first, 0)
        places = first[:, None] + jnp.arange(self.longest - 1)
        tokens = jnp.take_along_axis(carry.output.tokens, places, axis=1, mode="clip")
        window = jnp.concatenate([before.token[:, None], tokens], axis=1)

        def show(turn: Array, cache: Cache) -> Cache:
            _, pending = draft.config.peek(draft.params, window, cache, valid=written, logits_at=NOWHERE)
            return draft.config.commit(pending)

        turns = (written > 0).any().astype(jnp.int32)
        return replace(carry, draft_cache=lax.fori_loop(0, turns, show, carry.draft_cache))

    def _ends(self, token: Int[Array, "B"]) -> Bool[Array, "B"]:
        return (token[:, None] == jnp.asarray(self.delimiters)).any(1)


def _judged(
    drafted: _Drafted, count: Int[Array, "B"], logits: Float[Array, "B L V"], hidden: Float[Array, "B L D"]
) -> DraftedStep:
    """The drafted step with the target's scores."""
    scores = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    last = jnp.maximum(count - 1, 0)[:, None, None]
    return DraftedStep(
        tokens=drafted.tokens,
        count=count,
        draft=drafted.log_probs,
        target=jnp.take_along_axis(scores, drafted.tokens[:, :, None], axis=2)[:, :, 0],
        best=scores.max(-1),
        hidden=jnp.take_along_axis(hidden, last, axis=1)[:, 0],
    )


def _stops(token: Int[Array, "B"], request: Request) -> Bool[Array, "B"]:
    return (token[:, None] == request.stop_tokens).any(1)


register_dataclass(
    Arbitrage,
    ["draft", "router", "threshold", "sampler", "processors"],
    ["delimiters", "longest", "top_logprobs", "prefill_window"],
)
