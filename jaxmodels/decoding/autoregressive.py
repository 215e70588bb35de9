"""One token at a time: peek 1, commit 1."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.processors.chain import Processor, process
from jaxmodels.decoding.samplers import Greedy, Sampler
from jaxmodels.decoding.strategy import (
    Output,
    Request,
    check_options,
    emit,
    has_choice,
    record_also,
    row_keys,
)
from jaxmodels.layers.spec import Params
from jaxmodels.models.depth import ALL_LAYERS, Depth
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.prefill import prefill
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class AutoregressiveCarry:
    """What a step hands to the next.

    Attributes:
        cache: all tokens but the newest.
        token: i32[B], the newest token of each row, not yet history.
        output: what has been generated.
    """

    cache: Cache
    token: jax.Array
    output: Output


@dataclass(frozen=True, kw_only=True)
class Autoregressive:
    """Sequential decoding.

    Attributes:
        sampler: how the next token is picked.
        processors: what changes the logits before, in this order.
        top_logprobs: None for no log-probabilities, 0 for those of the emitted tokens, n for those of the n
            most probable tokens beside them.
        prefill_window: longest window in which prompts are fed.

    Raises:
        ValueError: a value outside its range or not finite.
    """

    sampler: Sampler = Greedy()
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_options(self, {})

    @property
    def lookahead(self) -> int:
        return 0

    @property
    def continues_histories(self) -> bool:
        return True

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> AutoregressiveCarry:
        return self.begin(config, params, request, cache, output, ALL_LAYERS)

    def begin(
        self,
        config: LanguageModel,
        params: Params,
        request: Request,
        cache: Cache,
        output: Output,
        depth: Depth,
    ) -> AutoregressiveCarry:
        """The prefill, through as many blocks as `depth` says."""
        last, cache = prefill(config, params, *request.fed, cache, self.prefill_window, depth=depth)
        output = record_also(output, (), self.top_logprobs)
        token = jnp.zeros(request.lengths.shape, jnp.int32)
        carry = AutoregressiveCarry(cache=cache, token=token, output=output)
        return self.pick(carry, config.logits(params, last[:, None]), request)

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: AutoregressiveCarry
    ) -> AutoregressiveCarry:
        return self.advance(config, params, request, carry, ALL_LAYERS)[0]

    def advance(
        self,
        config: LanguageModel,
        params: Params,
        request: Request,
        carry: AutoregressiveCarry,
        depth: Depth,
    ) -> tuple[AutoregressiveCarry, Any]:
        """A step through as many blocks as `depth` says; also what it committed."""
        running = (~carry.output.done).astype(jnp.int32)
        scored, pending = config.peek(params, carry.token[:, None], carry.cache, valid=running, depth=depth)
        output = replace(carry.output, steps=carry.output.steps + 1)
        carry = replace(carry, cache=config.commit(pending), output=output)
        return self.pick(carry, scored.logits, request), pending

    def pick(
        self, carry: AutoregressiveCarry, logits: Float[Array, "B 1 V"], request: Request
    ) -> AutoregressiveCarry:
        """Emits each running row's next token, by the logits behind its newest one."""
        output = carry.output
        token, chosen = self.choose(output, logits, request)
        token = jnp.where(output.done, carry.token, token)
        output = emit(output, request, token[:, None], 1, logits, chosen=chosen)
        return replace(carry, token=token, output=output)

    def choose(
        self, output: Output, logits: Float[Array, "B 1 V"], request: Request
    ) -> tuple[Int[Array, "B"], Bool[Array, "B 1"]]:
        """Each row's next token behind `output`, and whether there was one to choose, see `has_choice`."""
        scores = process(self.processors, logits, request, output)
        return self.sampler(scores[:, 0], row_keys(request, output.lengths)), has_choice(scores)


register_dataclass(Autoregressive, ["sampler", "processors"], ["top_logprobs", "prefill_window"])
