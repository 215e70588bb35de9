"""What a decoding strategy is: a prefill and a step, driven by one loop that is the same for all of them."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.decoding.draft_record import DraftRecord
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel


@struct.dataclass
class Request:
    """One batch of prompts and when to stop. All of it is data: none of it causes a compilation.

    Attributes:
        tokens: i32[B, S], prompts padded on the right.
        lengths: i32[B], their lengths, at least 1.
        max_new: i32, tokens to generate per row at most.
        stop_tokens: i32[any], a row ends after any of them.
        pad_token: i32, fills rows beyond their end.
        keys: one random key per row.
        stop_table: i16[states, V], what `stop_strings.stop_table` gives; None without stop strings.
        unread: where the cache holds a history, what of the prompts is not in it: i32[B, U] tokens padded on
            the right, and i32[B] lengths. None where it is empty. See `ContinuesHistories`.
    """

    tokens: jax.Array
    lengths: jax.Array
    max_new: jax.Array
    stop_tokens: jax.Array
    pad_token: jax.Array
    keys: jax.Array
    stop_table: jax.Array | None = None
    unread: tuple[jax.Array, jax.Array] | None = None

    @property
    def fed(self) -> tuple[jax.Array, jax.Array]:
        """Tokens and lengths that the prefill has to feed: the prompts, or what of them is unread."""
        return (self.tokens, self.lengths) if self.unread is None else self.unread


@struct.dataclass
class LogProbs:
    """Log-probabilities under the model itself, before any penalty, temperature or filter.

    Attributes:
        chosen: f32[B, max_new], of the emitted tokens.
        top_ids: i32[B, max_new, n], the most probable tokens, best first.
        top: f32[B, max_new, n], theirs.
    """

    chosen: jax.Array
    top_ids: jax.Array
    top: jax.Array


@struct.dataclass
class Output:
    """What has been generated so far.

    Attributes:
        tokens: i32[B, max_new], the padding token beyond each row's length.
        lengths: i32[B], stop token included.
        done: bool[B], rows that have ended.
        stuck: bool[B], rows that ended because there was no token to choose, see `has_choice`.
        matched: i32[B], the state of the search for stop strings.
        steps: i32, calls of the model after the prefill.
        log_probs: None unless asked for.
        drafts: None unless asked for.
        counters: i32[B] each, what a strategy counts; ``"calls"``, where it is there, are the calls in which
            the row was not done.
    """

    tokens: jax.Array
    lengths: jax.Array
    done: jax.Array
    stuck: jax.Array
    matched: jax.Array
    steps: jax.Array
    log_probs: LogProbs | None = None
    drafts: DraftRecord | None = None
    counters: dict[str, jax.Array] = struct.field(default_factory=dict)


class Carry(Protocol):
    """A strategy's loop state: a pytree whose type never changes, with the output among its fields."""

    @property
    def output(self) -> Output: ...
    @property
    def cache(self) -> Cache: ...


class Strategy(Protocol):
    """A decoding method, written against `LanguageModel` alone. A pytree.

    `prefill` settles the prompt; `step` brings every row that is not done nearer to its next token, and
    calls the model at least once. Both are traced.
    """

    @property
    def prefill_window(self) -> int:
        """The longest window in which prompts are fed."""

    @property
    def lookahead(self) -> int:
        """Cache slots that windows need beyond a row's prompt and the tokens it asks for."""

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> Any: ...

    def step(self, config: LanguageModel, params: Params, request: Request, carry: Any) -> Any: ...


@runtime_checkable
class ChoosesModels(Protocol):
    """A strategy that says itself which models it decodes; the others decode causal ones."""

    def check_model(self, config: LanguageModel, max_new_tokens: int) -> None:
        """Raises ValueError, with the reason, where it cannot decode the model, or answers of this length."""


@runtime_checkable
class ContinuesHistories(Protocol):
    """A strategy whose prefill feeds `Request.fed` and asks nothing else of the tokens before."""

    @property
    def continues_histories(self) -> bool: ...


@runtime_checkable
class Branching(Protocol):
    """A strategy that goes on with several rows for each prompt."""

    @property
    def samples(self) -> int:
        """How many."""


def row_keys(request: Request, lengths: Int[Array, "B"]) -> Array:
    """A key per row that depends on the row's key and its number of tokens, not on its neighbours."""
    return jax.vmap(jax.random.fold_in)(request.keys, lengths)


def empty_output(batch: int, max_new: int, pad_token: Int[Array, ""]) -> Output:
    """Room for `max_new` tokens per row."""
    return Output(
        tokens=jnp.full((batch, max_new), pad_token, jnp.int32),
        lengths=jnp.zeros((batch,), jnp.int32),
        done=jnp.zeros((batch,), bool),
        stuck=jnp.zeros((batch,), bool),
        matched=jnp.zeros((batch,), jnp.int32),
        steps=jnp.zeros((), jnp.int32),
    )


def record_also(output: Output, counters: Sequence[str], top_logprobs: int | None) -> Output:
    """`output` with counters at zero, and room for log-probabilities unless `top_logprobs` is None."""
    batch, max_new = output.tokens.shape
    zeros = {name: jnp.zeros((batch,), jnp.int32) for name in counters}
    if top_logprobs is None:
        return replace(output, counters=zeros)
    log_probs = LogProbs(
        chosen=jnp.zeros((batch, max_new), jnp.float32),
        top_ids=jnp.zeros((batch, max_new, top_logprobs), jnp.int32),
        top=jnp.zeros((batch, max_new, top_logprobs), jnp.float32),
    )
    return replace(output, counters=zeros, log_probs=log_probs)


def has_choice(scores: Float[Array, "B S V"]) -> Bool[Array, "B S"]:
    """Whether a token can be chosen: no NaN, no positive infinity, and not every token ruled out."""
    return jnp.isfinite(scores.max(-1))


def emit(
    output: Output,
    request: Request,
    tokens: Int[Array, "B S"],
    count: Int[Array, "B"] | int,
    logits: Float[Array, "B S V"] | None = None,
    *,
    chosen: Bool[Array, "B S"],
    found: LogProbs | None = None,
) -> Output:
    """Appends the first ``count[b]`` tokens to each row that is not done; ends rows that stop or are full.

    What follows a stop token, the token that completes a stop string or the request's last token is dropped.
    `logits` are the model's for `tokens`; they are read where log-probabilities are recorded, and only there
    may not be None, unless `found` holds those of the tokens, [B, S]. `chosen` is what `has_choice` says of
    the scores that each token was chosen by: a row ends before the first that was not, and is stuck.
    """
    batch, size = tokens.shape
    index = jnp.arange(size)
    matched = _search(request.stop_table, output.matched, tokens)
    stops = (tokens[:, :, None] == request.stop_tokens).any(-1)
    if request.stop_table is not None:
        stops = stops | (matched[:, 1:] == request.stop_table.shape[0] - 1)
    after_stop = jnp.cumsum(stops, axis=1) - stops > 0
    slot = output.lengths[:, None] + index
    offered = (index < jnp.broadcast_to(count, (batch,))[:, None]) & ~output.done[:, None]
    wanted = offered & ~after_stop & (slot < request.max_new)
    taken = wanted & (jnp.cumsum(~chosen, axis=1) == 0)
    stuck = (wanted & ~chosen).any(1)
    lengths = output.lengths + taken.sum(1, dtype=jnp.int32)
    slot = jnp.where(taken, slot, output.tokens.shape[1])
    return replace(
        output,
        tokens=_put(output.tokens, slot, tokens),
        lengths=lengths,
        done=output.done | (taken & stops).any(1) | (lengths >= request.max_new) | stuck,
        stuck=output.stuck | stuck,
        matched=jnp.take_along_axis(matched, taken.sum(1)[:, None], axis=1)[:, 0],
        log_probs=_record(output.log_probs, slot, tokens, logits, found),
    )


def _search(
    table: Int[Array, "X V"] | None, state: Int[Array, "B"], tokens: Int[Array, "B S"]
) -> Int[Array, "B S+1"]:
    """The states of the search for stop strings before the tokens and after each of them."""
    if table is None:
        return jnp.broadcast_to(state[:, None], (tokens.shape[0], tokens.shape[1] + 1))

    def step(state: Array, token: Array) -> tuple[Array, Array]:
        state = table[state, token].astype(jnp.int32)
        return state, state

    _, after = lax.scan(step, state, tokens.T)
    return jnp.concatenate([state[:, None], after.T], axis=1)


def tally(output: Output, **amounts: Int[Array, "B"] | int) -> Output:
    """Adds to the counters of rows that are not done."""
    running = ~output.done
    more = {name: output.counters[name] + jnp.where(running, amount, 0) for name, amount in amounts.items()}
    return replace(output, counters={**output.counters, **more})


def still_running(output: Output) -> Bool[Array, ""]:
    """Whether any row has tokens to come."""
    return ~output.done.all()


def check_options(strategy: Any, lowest: Mapping[str, int]) -> None:
    """Checks the options of a strategy when it is made; its whole numbers become Python integers,
    its processors a tuple.

    Args:
        strategy: a frozen dataclass. Of the options that strategies share it may have `sampler`,
            `processors`, `top_logprobs` and `prefill_window`.
        lowest: the least value of each other option that is a whole number.

    Raises:
        ValueError: an option is of another kind or out of range; the message names it.
    """
    names = {field.name for field in dataclasses.fields(strategy)}
    shared = {"prefill_window": 1} if "prefill_window" in names else {}
    if getattr(strategy, "top_logprobs", None) is not None:
        shared["top_logprobs"] = 0
    for name, low in {**shared, **lowest}.items():
        object.__setattr__(strategy, name, whole(name, getattr(strategy, name), low=low))
    if "sampler" in names:
        check_policy("sampler", strategy.sampler, "probabilities", "Greedy() or Sample(...)")
    if "processors" in names:
        object.__setattr__(strategy, "processors", _as_chain(strategy.processors))


def _as_chain(processors: Any) -> Any:
    """A tuple of processors from one of them or several."""
    if is_traced(processors):  # a pytree taken apart
        return processors
    several = (processors,) if hasattr(processors, "positional") else processors
    if not isinstance(several, list | tuple):
        raise ValueError(
            "processors must be a sequence of processors, such as (MinNewTokens(3),), "
            f"got {shown(processors)}"
        )
    for i, processor in enumerate(several):
        check_policy(f"processors[{i}]", processor, "positional", "MinNewTokens(3)")
    return tuple(several)


def check_policy(name: str, value: Any, method: str, example: str) -> None:
    """Raises ValueError unless an option is an object with what its kind has; a class of the kind is none."""
    if not is_traced(value) and (isinstance(value, type) or not hasattr(value, method)):
        raise ValueError(f"{name} must be one such as {example}, got {shown(value)}")


def _record(
    log_probs: LogProbs | None,
    slot: Int[Array, "B S"],
    tokens: Int[Array, "B S"],
    logits: Array | None,
    found: LogProbs | None,
) -> LogProbs | None:
    if log_probs is None:
        return None
    if found is None:
        if logits is None:
            raise ValueError("emit: log-probabilities are recorded, so `logits` must be given")
        found = score_tokens(tokens, logits, log_probs.top.shape[-1])
    return jax.tree.map(lambda buffer, new: _put(buffer, slot, new), log_probs, found)


def score_tokens(tokens: Int[Array, "B S"], logits: Float[Array, "B S V"], top: int) -> LogProbs:
    """The log-probabilities of tokens and of the `top` most probable ones, [B, S] and [B, S, top].

    Raises:
        ValueError: `top` exceeds the vocabulary.
    """
    if top > logits.shape[-1]:
        raise ValueError(f"top_logprobs={top} exceeds the vocabulary's {logits.shape[-1]} tokens")
    scores = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
    best, best_ids = jax.lax.top_k(scores, top)
    chosen = jnp.take_along_axis(scores, tokens[:, :, None], axis=-1)[:, :, 0]
    return LogProbs(chosen=chosen, top_ids=best_ids, top=best)


def _put(buffer: Array, slot: Int[Array, "B S"], values: Array) -> Array:
    """Writes values into each row's slots; slots beyond the buffer are dropped."""
    rows = jnp.arange(slot.shape[0])[:, None]
    return buffer.at[rows, slot].set(values, mode="drop")
