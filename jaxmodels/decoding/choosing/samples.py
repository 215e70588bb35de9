"""Several samples of each prompt as rows that share its prefix: fed once, its cache branched as a value."""

from collections.abc import Sequence
from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array

from jaxmodels.decoding.autoregressive import Autoregressive, AutoregressiveCarry
from jaxmodels.decoding.choosing.choice import Candidates
from jaxmodels.decoding.processors.chain import Processor
from jaxmodels.decoding.processors.per_row import PerRow
from jaxmodels.decoding.strategy import Output, Request, empty_output, record_also
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.prefill import prefill
from jaxmodels.models.rows import repeat_rows


def sample_keys(keys: Array, samples: int) -> Array:
    """The random keys of each prompt's samples, [B * n], from that of the prompt."""
    return jax.vmap(lambda key: jax.random.split(key, samples))(keys).reshape(-1)


def widened(request: Request, samples: int) -> Request:
    """The request of all samples: each prompt `samples` times in a row, with keys of their own."""
    return replace(
        request,
        tokens=jnp.repeat(request.tokens, samples, axis=0),
        lengths=jnp.repeat(request.lengths, samples),
        keys=sample_keys(request.keys, samples),
    )


def widened_processors(processors: Sequence[Processor], samples: int) -> tuple[Processor, ...]:
    """The processors of all samples: those of each row for each of its samples."""
    return tuple(
        replace(one, rows=tuple(row for row in one.rows for _ in range(samples)))
        if isinstance(one, PerRow)
        else one
        for one in processors
    )


def begin_samples(
    strategy: Autoregressive,
    config: LanguageModel,
    params: Params,
    request: Request,
    cache: Cache,
    output: Output,
    samples: int,
) -> AutoregressiveCarry:
    """The prompts settled, and the first token of each sample.

    Prompts are fed and their last logits made once, for all samples. `strategy` is what the samples are drawn
    by, its processors those of all samples.
    """
    last, cache = prefill(config, params, request.tokens, request.lengths, cache, strategy.prefill_window)
    logits = config.logits(params, last[:, None])
    batch, max_new = output.tokens.shape
    wide = empty_output(batch * samples, max_new, request.pad_token)
    carry = AutoregressiveCarry(
        cache=repeat_rows(cache, samples),
        token=jnp.zeros((batch * samples,), jnp.int32),
        output=record_also(wide, (), strategy.top_logprobs),
    )
    return strategy.pick(carry, jnp.repeat(logits, samples, axis=0), widened(request, samples))


def candidates_of(output: Output, samples: int) -> Candidates:
    """What a choice goes by, of an output of all samples that has log-probabilities."""
    assert output.log_probs is not None
    is_token = jnp.arange(output.tokens.shape[1]) < output.lengths[:, None]
    log_prob = jnp.where(is_token, output.log_probs.chosen, 0.0).sum(1)
    by_prompt = (a.reshape(-1, samples) for a in (output.lengths, output.done, output.stuck, log_prob))
    return Candidates(*by_prompt)
