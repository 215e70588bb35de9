"""What strategies share that score guesses: one window holds the newest token and guesses of the next ones.

The model's verdict on the window emits ``count[b]`` tokens in row b, of which all but the last were guessed;
as many window tokens become history, so that the newest token is again the only one that is not.
"""

from collections.abc import Sequence
from dataclasses import replace

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.processors.chain import Processor, process
from jaxmodels.decoding.samplers import Sampler
from jaxmodels.decoding.strategy import Output, Request, emit, has_choice, record_also, row_keys, tally
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel, Pending
from jaxmodels.models.prefill import prefill

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
) -> tuple[Int[Array, "B"], Cache, Output]:
    """Settles the prompts and emits each row's first token: (token, cache, output)."""
    last, cache = prefill(config, params, request.tokens, request.lengths, cache, prefill_window)
    logits = config.logits(params, last[:, None])
    scores = process(processors, logits, request, output)
    token = sampler(scores[:, 0], row_keys(request, output.lengths))
    output = record_also(output, COUNTERS, top_logprobs)
    output = emit(output, request, token[:, None], 1, logits, chosen=has_choice(scores))
    return token, cache, output


def in_rows_that_run(output: Output, size: Int[Array, ""] | int) -> Int[Array, "B"]:
    """How many tokens of a window are real: the first `size`, and none in rows that are done."""
    return jnp.where(output.done, 0, size)


def settle(
    config: LanguageModel,
    request: Request,
    output: Output,
    pending: Pending,
    tokens: Int[Array, "B S"],
    count: Int[Array, "B"],
    logits: Float[Array, "B S V"],
    *,
    chosen: Bool[Array, "B S"],
) -> tuple[Int[Array, "B"], Cache, Output]:
    """Emits and commits the first ``count[b]`` of `tokens`, the successors of the window's: as `first_token`.

    logits: the model's at each window token, of which `tokens` are the verdict. chosen: see `emit`. count: at
    least 1, and 0 in rows that are done.
    """
    emitted = emit(output, request, tokens, count, logits, chosen=chosen)
    accepted = jnp.minimum(count - 1, emitted.lengths - output.lengths)
    counters = tally(output, calls=1, drafted=tokens.shape[1] - 1, accepted=accepted).counters
    newest = jnp.take_along_axis(tokens, jnp.maximum(count - 1, 0)[:, None], axis=1)[:, 0]
    output = replace(emitted, steps=output.steps + 1, counters=counters)
    return newest, config.commit(pending, count), output
