"""Generation as the host sees it: buckets in front of the compiled programs, plain arrays behind them."""

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from jaxmodels.decoding.buckets import prompt_bucket
from jaxmodels.decoding.draft_record import DraftRecord
from jaxmodels.decoding.driver import PlacesCaches
from jaxmodels.decoding.histories import History
from jaxmodels.decoding.processors.token_ids import check_vocabulary
from jaxmodels.decoding.prompts import PromptBatch
from jaxmodels.decoding.runners import TRACED, Runner
from jaxmodels.decoding.stop_strings import TextDecoder
from jaxmodels.decoding.strategy import (
    Branching,
    ChoosesModels,
    ContinuesHistories,
    LogProbs,
    Output,
    Request,
    Strategy,
)
from jaxmodels.layers.cache.window_only import WindowOnly
from jaxmodels.layers.masks import Causal
from jaxmodels.layers.moe.routing import RoutedFeedForward
from jaxmodels.layers.spec import Params
from jaxmodels.memory import check_fits
from jaxmodels.models.cache_policies import policies_of
from jaxmodels.models.costs import cache_bytes
from jaxmodels.models.filling import filling_of
from jaxmodels.models.language_model import BlockStack, Cache, LanguageModel

# Stop-token lists are padded to a multiple of this, so that one more stop token compiles nothing.
STOP_SLOTS = 4


@dataclass(frozen=True, kw_only=True)
class Generated:
    """Tokens of one batch.

    Attributes:
        tokens: i32[B, max_new].
        lengths: i32[B], stop token included.
        steps: model calls after the prefill.
        log_probs, drafts: None unless asked for.
        counters: what the strategy counted, i32[B] each.
    """

    tokens: np.ndarray
    lengths: np.ndarray
    steps: int
    log_probs: LogProbs | None
    drafts: DraftRecord | None
    counters: Mapping[str, np.ndarray]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """One batch made ready: bucketed sizes, the request as data, an empty cache.

    Attributes:
        request: the prompts and when to stop.
        cache: with room for prompts and answers.
        max_new: tokens asked for.
        new_slots: the output's bucketed width.
        capacity: cache slots per row.
    """

    request: Request
    cache: Cache
    max_new: int
    new_slots: int
    capacity: int


def plan(
    config: LanguageModel,
    params: Params,
    prompts: PromptBatch,
    strategy: Strategy,
    *,
    max_new_tokens: int,
    stop_tokens: Sequence[int],
    stop_table: np.ndarray | None = None,
    pad_token: int,
    seed: int,
    capacity: int | None,
    runner: Runner = TRACED,
    placement: PlacesCaches | None = None,
    history: History | None = None,
) -> Plan:
    """Chooses sizes that `runner` has programs for and builds the request, the cache where `placement` says.

    Raises:
        ValueError: a stop token or one that the strategy names outside the vocabulary, more tokens (with the
            strategy's window behind them) than `capacity` holds, more than the model has learned positions or
            than there is memory for, or a model that the strategy cannot decode.
    """
    if isinstance(strategy, ChoosesModels):
        strategy.check_model(config, max_new_tokens)
    else:
        check_causal(config)
    check_vocabulary(strategy, config.vocab_size)
    for token in stop_tokens:
        if not 0 <= token < config.vocab_size:
            raise ValueError(f"stop_tokens: {token} lies outside the vocabulary 0 to {config.vocab_size - 1}")
    batch, longest = prompts.tokens.shape
    if history is not None:
        capacity = _check_history(config, strategy, history, prompts, capacity)
    _check_lengths(config, strategy, longest, max_new_tokens, capacity)
    chosen = runner.sizes(batch, longest, max_new_tokens, strategy, capacity)
    capacity = chosen.capacity
    tokens = np.zeros((batch, chosen.prompt), np.int32)
    tokens[:, :longest] = prompts.tokens
    stop = np.full(-(-max(len(stop_tokens), 1) // STOP_SLOTS) * STOP_SLOTS, -1, np.int32)
    stop[: len(stop_tokens)] = list(stop_tokens)
    dtype = str(config.dtype_of(params))
    rows, of = batch, "prompts"
    if isinstance(strategy, Branching):
        rows, of = batch * strategy.samples, f"{strategy.samples} samples of each prompt"
    if placement is None:
        sizes = _cache_bytes(config, dtype)
        needed = rows * (sizes.per_row + capacity * sizes.per_token)
    else:
        needed = placement.cache_bytes(config, rows, capacity, dtype)
    check_fits(
        f"a cache of {rows} rows ({of}) and {capacity} slots (capacity: prompt and max_new_tokens)", needed
    )
    window = strategy.lookahead + 1
    check_fits(
        f"the logits of {rows} rows ({of}) and {window} tokens at once (the strategy's window)",
        4 * rows * window * config.vocab_size,
    )
    placed = jax.device_put(  # which, unlike `jnp.asarray`, compiles nothing
        {
            "tokens": tokens,
            "lengths": np.asarray(prompts.lengths, np.int32),
            "max_new": np.int32(max_new_tokens),
            "stop_tokens": stop,
            "pad_token": np.int32(pad_token),
            "stop_table": stop_table,
            "unread": None if history is None else _unread(history, prompts, strategy.prefill_window),
        }
    )
    request = Request(**placed, keys=runner.keys(seed, batch))
    if history is None:
        cache = runner.allocate(
            config=config, batch=batch, capacity=capacity, dtype=dtype, placement=placement
        )
    else:
        cache = jax.tree.map(jnp.copy, history.cache)  # programs are given theirs for good
    return Plan(request=request, cache=cache, max_new=max_new_tokens, new_slots=chosen.new, capacity=capacity)


def _check_history(
    config: LanguageModel, strategy: Strategy, history: History, prompts: PromptBatch, capacity: int | None
) -> int:
    """The history's capacity; raises ValueError where prompts or strategy do not go on from it."""
    if not isinstance(strategy, ContinuesHistories):
        raise ValueError(
            f"history: {type(strategy).__name__} reads prompts whole; Autoregressive(...) goes on from one"
        )
    if capacity not in (None, history.capacity):
        raise ValueError(f"capacity={capacity}: the history has {history.capacity} slots; leave it out")
    history.check_continued(prompts)
    limit = getattr(config, "recode_beyond", None)
    if limit is not None and prompts.tokens.shape[1] > limit:
        raise ValueError(
            f"history: a prompt of {prompts.tokens.shape[1]} tokens is encoded anew beyond {limit}; generate "
            "without a history"
        )
    return history.capacity


def _unread(history: History, prompts: PromptBatch, window: int) -> tuple[np.ndarray, np.ndarray]:
    """What of the prompts is not settled, in a bucket of its own."""
    rest = history.unread(prompts)
    longest = rest.tokens.shape[1]
    tokens = np.zeros((len(rest.lengths), prompt_bucket(longest, window)), np.int32)
    tokens[:, :longest] = rest.tokens
    return tokens, np.asarray(rest.lengths, np.int32)


def _check_lengths(
    config: LanguageModel, strategy: Strategy, longest: int, max_new_tokens: int, capacity: int | None
) -> None:
    """Raises ValueError where prompt and answer exceed `capacity` or the model's learned positions."""
    needed = longest + max_new_tokens + strategy.lookahead
    if capacity is not None and needed > capacity:
        beyond = f" and {strategy.lookahead} slots of lookahead" if strategy.lookahead else ""
        raise ValueError(
            f"capacity={capacity} cannot hold a prompt of {longest} tokens and "
            f"max_new_tokens={max_new_tokens}{beyond}; it must be at least {needed}"
        )
    # Models that predict the next token are never shown the last one; those that fill in tokens are.
    fed = longest + max_new_tokens - (filling_of(config) is None)
    positions = config.learned_positions
    if positions is not None and fed > positions:
        raise ValueError(
            f"a prompt of {longest} tokens and max_new_tokens={max_new_tokens} need {fed} positions, "
            f"the model has learned {positions}"
        )


_cache_bytes = functools.lru_cache(maxsize=16)(cache_bytes)


def check_causal(config: LanguageModel) -> None:
    """Raises ValueError, naming what does it, where a token's features depend on later tokens, or where those
    before it are not kept."""
    if not isinstance(config.mask, Causal):
        way = "MaskedDiffusion(...) decodes it" if filling_of(config) else "it encodes texts"
        raise ValueError(
            f"the model's tokens see later ones (mask={config.mask}), so that it cannot decode token by "
            f"token; {way}"
        )
    for i, block in enumerate(config.blocks if isinstance(config, BlockStack) else ()):
        if isinstance(block.ffn, RoutedFeedForward) and not block.ffn.causal:
            raise ValueError(
                f"block {i} cannot decode token by token: with {block.ffn} what a token gets depends on the "
                "tokens around it; give the layer a router that is causal and dispatch=Dropless()"
            )
    for i, policy in policies_of(config) if isinstance(config, BlockStack) else ():
        if isinstance(policy, WindowOnly):
            raise ValueError(
                f"block {i} cannot decode token by token: its cache={policy} keeps nothing of the tokens "
                "that the next one sees; give the layer one that does, such as FullCache()"
            )


def run(
    config: LanguageModel, params: Params, strategy: Strategy, plan: Plan, runner: Runner = TRACED
) -> Generated:
    """The whole generation as one compiled program.

    Raises:
        NoTokenError: a row has no next token to choose.
    """
    output, _ = runner.generate(
        params, plan.request, plan.cache, strategy,
        config=config, max_new=plan.new_slots,
    )  # fmt: skip
    return _to_host(output, plan.max_new)


def stream(
    config: LanguageModel, params: Params, strategy: Strategy, plan: Plan, chunk: int, runner: Runner = TRACED
) -> Iterator[Generated]:
    """All tokens so far, after the prefill and then after every `chunk` steps, until all rows are done.

    Raises:
        NoTokenError: a row has no next token to choose.
    """
    carry: Any = runner.start(
        params, plan.request, plan.cache, strategy,
        config=config, max_new=plan.new_slots,
    )  # fmt: skip
    steps = jax.device_put(np.int32(chunk))
    while True:
        yield _to_host(carry.output, plan.max_new)
        if np.asarray(carry.output.done).all():
            return
        carry = runner.advance(params, plan.request, carry, strategy, steps, config=config)


class NoTokenError(ValueError):
    """A row has no next token: its logits hold NaN or infinity, or all tokens are ruled out."""


class Piece(NamedTuple):
    """Text that has become certain, possibly none, and the number of tokens generated so far."""

    text: str
    tokens: int


def stream_text(results: Iterator[Generated], decoder: TextDecoder) -> Iterator[Piece]:
    """The first row of each result as text; the last piece is what the decoder held back."""
    told = 0
    for result in results:
        length = int(result.lengths[0])
        yield Piece(decoder.push(result.tokens[0, told:length].tolist()), length)
        told = length
    yield Piece(decoder.finish(), told)


def _to_host(output: Output, max_new: int) -> Generated:
    output = jax.tree.map(_whole, output)
    _check_choices(np.asarray(output.stuck), np.asarray(output.lengths))
    log_probs, drafts = jax.tree.map(
        lambda leaf: np.asarray(leaf)[:, :max_new], (output.log_probs, output.drafts)
    )
    return Generated(
        tokens=np.asarray(output.tokens)[:, :max_new],
        lengths=np.asarray(output.lengths),
        steps=int(output.steps),
        log_probs=log_probs,
        drafts=drafts,
        counters={name: np.asarray(values) for name, values in output.counters.items()},
    )


def _whole(array: jax.Array) -> Any:
    """The array, or what it holds on the devices of all processes where this one has a part of it."""
    if array.is_fully_addressable or array.is_fully_replicated:
        return array
    return multihost_utils.process_allgather(array, tiled=True)


def _check_choices(stuck: np.ndarray, lengths: np.ndarray) -> None:
    """Raises NoTokenError, naming rows and steps, where rows ended without a token to choose."""
    rows = np.flatnonzero(stuck)
    if rows.size:
        named = ", ".join(f"row {row} as new token {lengths[row]}" for row in rows[:8])
        more = f" and {rows.size - 8} more rows" if rows.size > 8 else ""
        raise NoTokenError(
            f"there is no token to choose for {named}{more} (rows and tokens counted from 0): the logits "
            "hold NaN or infinity, which comes from the parameters or from numbers beyond the range of their "
            "dtype, or the strategy's processors rule out every token"
        )
