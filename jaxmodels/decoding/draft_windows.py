"""What strategies share that score draft tokens: one window holds the newest token and drafts behind it.

The model's verdict on the window emits ``count[b]`` tokens in row b, of which all but the last were drafted;
as many window tokens become history, so that the newest token is again the only one that is not.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.processors.chain import Processor, process
from jaxmodels.decoding.samplers import Sampler
from jaxmodels.decoding.strategy import Output, Request, emit, has_choice, record_also, row_keys, tally
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel, Pending, WindowReader
from jaxmodels.models.prefill import prefill_with_taps

COUNTERS = ("calls", "drafted", "accepted")


def first_token(
    config: LanguageModel,
    params: Params,
    request: Request,
    cache: Cache,
    output: Output,
    *,
    sampler: Sampler,
    processors: Sequence[Processor],
    top_logprobs: int | None,
    prefill_window: int,
    taps: Sequence[str] = (),
) -> tuple[Int[Array, "B"], Cache, Output, dict[str, Float[Array, "B S D"]]]:
    """Settles the prompts and emits each row's first token: (token, cache, output, the prompts' `taps`)."""
    last, cache, seen = prefill_with_taps(
        config, params, request.tokens, request.lengths, cache, prefill_window, taps
    )
    logits = config.logits(params, last[:, None])
    scores = process(processors, logits, request, output)
    token = sampler(scores[:, 0], row_keys(request, output.lengths))
    output = record_also(output, COUNTERS, top_logprobs)
    output = emit(output, request, token[:, None], 1, logits, chosen=has_choice(scores))
    return token, cache, output, seen


def in_rows_that_run(output: Output, size: Int[Array, ""] | int) -> Int[Array, "B"]:
    """How many tokens of a window are real: the first `size`, and none in rows that are done."""
    return jnp.where(output.done, 0, size)


def settle(
    reader: WindowReader,
    request: Request,
    output: Output,
    pending: Pending,
    tokens: Int[Array, "B S"],
    count: Int[Array, "B"],
    logits: Float[Array, "B S V"],
    *,
    chosen: Bool[Array, "B S"],
    drafted: Int[Array, "B"] | int,
    path: Int[Array, "B S"] | None = None,
) -> tuple[Int[Array, "B"], Cache, Output]:
    """Emits and commits the first ``count[b]`` of `tokens`, the successors of the window's.

    Args:
        reader: what scored the window.
        count: at least 1, and 0 in rows that are done.
        logits: the model's at each window token, of which `tokens` are the verdict.
        chosen: see `emit`.
        drafted: how many draft tokens there were.
        path: where the draft tokens are a tree, the window tokens that `tokens`, `logits` and `chosen` belong
            to; None where they are those of the window in its order.

    Returns:
        (newest token, cache, output).
    """
    emitted = emit(output, request, tokens, count, logits, chosen=chosen)
    accepted = jnp.minimum(count - 1, emitted.lengths - output.lengths)
    counters = tally(output, calls=1, drafted=drafted, accepted=accepted).counters
    newest = jnp.take_along_axis(tokens, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    output = replace(emitted, steps=output.steps + 1, counters=counters)
    # A window of one token is settled as its row runs, and nothing is replayed.
    cache = reader.commit(pending) if tokens.shape[1] == 1 else reader.commit(pending, count, path)
    return newest, cache, output


def fold_keys(keys: Array, index: Array | int) -> Array:
    """Number `index` of each row's keys."""
    return jax.vmap(lambda key: jax.random.fold_in(key, index))(keys)


def even_without_choice(scores: Float[Array, "B S V"], chosen: Bool[Array, "B S"]) -> Float[Array, "B S V"]:
    """Scores that leave a choice as they are, others even: a draft token must not spoil those before it."""
    return jnp.where(chosen[..., None], scores, 0.0)
