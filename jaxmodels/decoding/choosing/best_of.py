"""Several samples of each prompt, of which one is the answer."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array

from jaxmodels.decoding.autoregressive import Autoregressive, AutoregressiveCarry
from jaxmodels.decoding.choosing.choice import Choice
from jaxmodels.decoding.choosing.most_probable import MOST_PROBABLE
from jaxmodels.decoding.choosing.samples import begin_samples, candidates_of, widened, widened_processors
from jaxmodels.decoding.processors.chain import Processor
from jaxmodels.decoding.samplers import Greedy, Sample, Sampler
from jaxmodels.decoding.strategy import (
    Output,
    Request,
    check_options,
    check_policy,
    record_also,
    tally,
)
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.rows import take_rows
from jaxmodels.pytrees import register_dataclass

PLAIN_SAMPLING = Sample()
COUNTERS = ("calls", "sampled", "saved")


@struct.dataclass
class BestOfCarry:
    """What a step hands to the next.

    Attributes:
        samples: the carry of all samples, ``n`` rows for each prompt.
        winner: i32[B], the number of each prompt's answer among its samples, 0 before it is decided.
        output: the answers of prompts that are decided.
    """

    samples: AutoregressiveCarry
    winner: jax.Array
    output: Output

    @property
    def cache(self) -> Cache:
        """The histories of the answers."""
        batch = self.winner.shape[0]
        each = self.samples.token.shape[0] // batch
        return take_rows(self.samples.cache, jnp.arange(batch) * each + self.winner)


@dataclass(frozen=True, kw_only=True)
class BestOf:
    """Draws several samples of each prompt, and answers with one.

    The prompt is fed once; behind it, each sample is a row of its own, with a copy of the prompt's cache. So
    a step costs what it costs for as many rows. The samples are those that `Autoregressive` would draw with
    the keys of `samples.sample_keys`. Where the choice is made early, the others stop.

    Counted are ``"calls"``, steps until the prompt was decided, ``"sampled"``, tokens of all its samples, and
    ``"saved"``, the tokens at most that were left to the samples that were stopped.

    Attributes:
        samples: how many of each prompt.
        by: how one is chosen: `MostProbable` (best of n) or `FirstFinish`.
        sampler: how tokens are drawn.
        processors, top_logprobs, prefill_window: see `Autoregressive`.

    Raises:
        ValueError: `samples` is below 1, several samples of a sampler without chance, or another value
            outside its range.
    """

    samples: int = 4
    by: Choice = MOST_PROBABLE
    sampler: Sampler = PLAIN_SAMPLING
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_options(self, {"samples": 1})
        check_policy("by", self.by, "decided", "MostProbable() or FirstFinish()")
        if isinstance(self.sampler, Greedy) and self.samples > 1:
            raise ValueError(
                f"samples={self.samples} with sampler=Greedy() would all be the same; give "
                "sampler=Sample(...)"
            )

    @property
    def lookahead(self) -> int:
        return 0

    @property
    def _each(self) -> Autoregressive:
        """How all samples are drawn; log-probabilities are what choices go by."""
        return Autoregressive(
            sampler=self.sampler,
            processors=widened_processors(self.processors, self.samples),
            top_logprobs=self.top_logprobs or 0,
            prefill_window=self.prefill_window,
        )

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> BestOfCarry:
        samples = begin_samples(self._each, config, params, request, cache, output, self.samples)
        output = record_also(output, COUNTERS, self.top_logprobs)
        carry = BestOfCarry(samples=samples, winner=jnp.zeros(output.done.shape, jnp.int32), output=output)
        return self._decide(carry, request)

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: BestOfCarry
    ) -> BestOfCarry:
        samples = self._each.step(config, params, widened(request, self.samples), carry.samples)
        output = replace(tally(carry.output, calls=1), steps=carry.output.steps + 1)
        return self._decide(replace(carry, samples=samples, output=output), request)

    def _decide(self, carry: BestOfCarry, request: Request) -> BestOfCarry:
        """Answers the prompts whose choice can be made, and stops their samples."""
        drawn = carry.samples.output
        candidates = candidates_of(drawn, self.samples)
        new = self.by.decided(candidates) & ~carry.output.done
        winner = jnp.where(new, self.by.best(candidates), carry.winner)
        rows = jnp.arange(winner.shape[0]) * self.samples + winner

        def answered(old: Array, of_samples: Array) -> Array:
            return jnp.where(new.reshape(-1, *(1,) * (old.ndim - 1)), of_samples[rows], old)

        answers = {
            name: jax.tree.map(answered, getattr(carry.output, name), getattr(drawn, name))
            for name in self._taken_over
        }
        left = jnp.where(candidates.done, 0, request.max_new - candidates.lengths).sum(1)
        counters = {
            **carry.output.counters,
            "sampled": candidates.lengths.sum(1),
            "saved": jnp.where(new, left, carry.output.counters["saved"]),
        }
        output = replace(carry.output, **answers, counters=counters)
        done = drawn.done | jnp.repeat(output.done, self.samples)
        return BestOfCarry(
            samples=replace(carry.samples, output=replace(drawn, done=done)), winner=winner, output=output
        )

    @property
    def _taken_over(self) -> tuple[str, ...]:
        """What an answer has of its sample."""
        names = ("tokens", "lengths", "done", "stuck", "matched")
        return names if self.top_logprobs is None else (*names, "log_probs")


register_dataclass(BestOf, ["by", "sampler", "processors"], ["samples", "top_logprobs", "prefill_window"])
