"""Early exit whose left blocks are filled for several tokens at once: no history is approximate."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, number
from jaxmodels.decoding.draft_windows import first_token, settle
from jaxmodels.decoding.drafters.drafter import Proposal, Round, Verdict
from jaxmodels.decoding.drafters.first_layers import FirstLayers
from jaxmodels.decoding.processors.chain import Processor, process
from jaxmodels.decoding.rungs import lengthened, run_rung, rungs
from jaxmodels.decoding.samplers import Greedy
from jaxmodels.decoding.strategy import Output, Request, check_options, has_choice, row_keys
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel, WindowReader
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class ParallelFillingCarry:
    """The loop state.

    Attributes:
        cache: all tokens but the newest.
        token: i32[B], the newest token of each row.
        output: what has been generated.
    """

    cache: Any
    token: jax.Array
    output: Output


@dataclass(frozen=True, kw_only=True, eq=False)
class ParallelFilling:
    """Greedy decoding in which tokens leave behind one exit, and the blocks behind it catch up together.

    A round reads token after token in the first `layers` blocks, as long as the head is sure there of what
    follows. Then the other blocks read all tokens of the round in one window, and say what follows the last.
    So weights behind the exit are read once for several tokens, and histories are those of the full model:
    a token that is said behind the last block is what the model would say. The first token that the exit is
    not sure of is read in the window as well, and kept where the model says the same; so with a threshold
    above 1 the output is exactly that of `Autoregressive`. Rows that are sure go on while others wait for the
    window. Source: the synchronized parallel decoding of FREE (https://arxiv.org/abs/2310.05424); that the
    unsure token is tried, too, is added, and FREE's estimator of the threshold is left out.

    It is worth its cost with models that were trained to be left early, as `FirstLayers` is, which it drafts
    with; unlike there, what the exit is sure of is not verified.

    Attributes:
        layers: blocks in front of the exit.
        threshold: the probability of the best token with which the exit is sure. Data.
        size: tokens that leave in one round at most.
        processors, top_logprobs, prefill_window: see `Autoregressive`. Log-probabilities are those behind the
            last block.

    Raises:
        ValueError: a value outside its range; when run, not fewer `layers` than the model has, or a model
            that is not made of blocks.
    """

    layers: int
    threshold: Array | float = 0.9
    size: int = 7
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_options(self, {"layers": 1, "size": 1})
        if not is_traced(self.threshold):
            number("threshold", self.threshold, low=0.0)

    @property
    def lookahead(self) -> int:
        return self.size - 1

    @property
    def _drafter(self) -> FirstLayers:
        return FirstLayers(layers=self.layers, size=self.size)

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> ParallelFillingCarry:
        token, cache, output, _ = first_token(
            config, params, request, cache, output,
            sampler=Greedy(), processors=self.processors, top_logprobs=self.top_logprobs,
            prefill_window=self.prefill_window,
        )  # fmt: skip
        carry = ParallelFillingCarry(cache=cache, token=token, output=output)
        self._drafter.begin(self._round(config, params, request, carry), {})
        return carry

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: ParallelFillingCarry
    ) -> ParallelFillingCarry:
        drafter, around = self._drafter, self._round(config, params, request, carry)
        proposal, pending, reader, cache = drafter.propose_on((), around, carry.cache)
        place = jnp.arange(self.size)
        probabilities: Any = proposal.probabilities
        is_sure = (place < proposal.count[:, None]) & (probabilities >= self.threshold)
        sure = jnp.cumprod(is_sure, axis=1).sum(1, dtype=jnp.int32)
        nothing = jnp.zeros((carry.token.shape[0], self.size + 1), jnp.int32)
        verdict = Verdict(path=nothing, count=nothing[:, 0], tokens=nothing, choices=nothing, taps={})
        filled = run_rung(
            rungs(self.size),
            proposal,
            around.keys,
            lambda cut, keys, state: self._fill(reader, around, cut, sure, state),
            _Filled(replace(carry, cache=cache), verdict),
        )
        _, cache = drafter.settle_on(pending, around, filled.verdict, filled.carry.cache)
        return replace(filled.carry, cache=cache)

    def _round(
        self, config: LanguageModel, params: Params, request: Request, carry: ParallelFillingCarry
    ) -> Round:
        def unsure(index: Array | int, probability: Float[Array, "B"]) -> Array:
            return probability < self.threshold

        return Round(
            config=config,
            params=params,
            request=request,
            output=carry.output,
            token=carry.token,
            sampler=Greedy(),
            processors=self.processors,
            keys=row_keys(request, carry.output.lengths),
            prefill_window=self.prefill_window,
            limit=jnp.full(carry.token.shape, self.size, jnp.int32),
            stop=unsure,
        )

    def _fill(
        self,
        reader: WindowReader,
        around: Round,
        proposal: Proposal,
        sure: Int[Array, "B"],
        given: "_Filled",
    ) -> "_Filled":
        """Reads a round's tokens behind the exit, and emits those that left and what follows them."""
        carry, drafted = given.carry, proposal.tokens
        window = jnp.concatenate([carry.token[:, None], drafted], axis=1)
        scored, pending = reader.peek(
            around.params,
            window,
            carry.cache,
            valid=jnp.where(carry.output.done, 0, 1 + proposal.count),
            known=carry.cache.length + 1,
        )
        scores = process(self.processors, scored.logits, around.request, carry.output, drafted)
        choices = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        place = jnp.arange(window.shape[1])
        is_right = (place[:-1] < sure[:, None]) | (drafted == choices[:, :-1])
        left = jnp.cumprod(is_right & (place[:-1] < proposal.count[:, None]), axis=1).sum(1, dtype=jnp.int32)
        count = jnp.minimum(1 + left, pending.valid)
        tokens = jnp.where(place < left[:, None], jnp.pad(drafted, [(0, 0), (0, 1)]), choices)
        token, cache, output = settle(
            reader, around.request, carry.output, pending, tokens, count, scored.logits,
            chosen=has_choice(scores), drafted=proposal.count,
        )  # fmt: skip
        path = jnp.broadcast_to(place, window.shape)
        verdict = Verdict(path=path, count=count, tokens=tokens, choices=choices, taps={})
        return _Filled(
            ParallelFillingCarry(cache=cache, token=token, output=output),
            lengthened(verdict, given.verdict),
        )


@struct.dataclass
class _Filled:
    """What a window changes: the loop state, and which of its tokens became history."""

    carry: ParallelFillingCarry
    verdict: Verdict


register_dataclass(
    ParallelFilling, ["threshold", "processors"], ["layers", "size", "top_logprobs", "prefill_window"]
)
