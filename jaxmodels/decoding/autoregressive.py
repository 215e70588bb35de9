"""One token at a time: peek 1, commit 1."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.decoding.prefill import prefill
from jaxmodels.decoding.samplers import Greedy, Sampler, check_number, mark_seen, penalise_repetition
from jaxmodels.decoding.strategy import LogProbs, Output, Request, emit
from jaxmodels.layers.spec import Params
from jaxmodels.models.decoder import Cache, Decoder


@struct.dataclass
class AutoregressiveCarry:
    """cache: all tokens but the newest. token: i32[B], the newest token of each row, not yet history.

    seen: bool[B, V], tokens that occurred in prompt or output; None without a repetition penalty.
    """

    cache: Cache
    token: jax.Array
    output: Output
    seen: jax.Array | None


@dataclass(frozen=True, kw_only=True)
class Autoregressive:
    """Sequential decoding.

    sampler: how the next token is picked. repetition_penalty: see `penalise_repetition`; None is none.
    top_logprobs: None for no log-probabilities, 0 for those of the emitted tokens, n for those of the n most
    probable tokens beside them. prefill_window: longest window in which prompts are fed.

    Raises:
        ValueError: a value outside its range or not finite.
    """

    sampler: Sampler = Greedy()
    repetition_penalty: float | None = None
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_number("repetition_penalty", self.repetition_penalty, low=0.0, low_included=False)
        if self.top_logprobs is not None and self.top_logprobs < 0:
            raise ValueError(f"top_logprobs must be None or at least 0, got {self.top_logprobs}")
        if self.prefill_window < 1:
            raise ValueError(f"prefill_window must be at least 1, got {self.prefill_window}")

    def prefill(
        self, config: Decoder, params: Params, request: Request, cache: Cache, output: Output
    ) -> AutoregressiveCarry:
        last, cache = prefill(config, params, request.tokens, request.lengths, cache, self.prefill_window)
        batch, size = request.tokens.shape
        seen = None
        if self.repetition_penalty is not None:
            is_prompt = jnp.arange(size)[None, :] < request.lengths[:, None]
            seen = mark_seen(jnp.zeros((batch, config.vocab_size), bool), request.tokens, is_prompt)
        output = replace(output, log_probs=self._empty_log_probs(output))
        token = jnp.zeros((batch,), jnp.int32)
        carry = AutoregressiveCarry(cache=cache, token=token, output=output, seen=seen)
        return self._pick(carry, config.logits(params, last[:, None])[:, 0], request)

    def step(
        self, config: Decoder, params: Params, request: Request, carry: AutoregressiveCarry
    ) -> AutoregressiveCarry:
        running = (~carry.output.done).astype(jnp.int32)
        logits, pending = config.peek(params, carry.token[:, None], carry.cache, valid=running)
        output = replace(carry.output, steps=carry.output.steps + 1)
        carry = replace(carry, cache=config.commit(pending), output=output)
        return self._pick(carry, logits[:, 0], request)

    def _pick(
        self, carry: AutoregressiveCarry, logits: Float[Array, "B V"], request: Request
    ) -> AutoregressiveCarry:
        """Emits each running row's next token."""
        output, seen = carry.output, carry.seen
        scores = logits
        if seen is not None and self.repetition_penalty is not None:
            scores = penalise_repetition(logits, seen, self.repetition_penalty)
        # A row's randomness depends on its key and its own length alone, not on its neighbours.
        keys = jax.vmap(jax.random.fold_in)(request.keys, output.lengths)
        token = self.sampler(scores, keys)
        running = ~output.done
        if seen is not None:
            seen = mark_seen(seen, token[:, None], running[:, None])
        if output.log_probs is not None:
            output = replace(output, log_probs=self._record(output, logits, token))
        token = jnp.where(running, token, carry.token)
        return replace(carry, token=token, output=emit(output, token, request), seen=seen)

    def _empty_log_probs(self, output: Output) -> LogProbs | None:
        if self.top_logprobs is None:
            return None
        shape = (*output.tokens.shape, self.top_logprobs)
        return LogProbs(
            chosen=jnp.zeros(shape[:2], jnp.float32),
            top_ids=jnp.zeros(shape, jnp.int32),
            top=jnp.zeros(shape, jnp.float32),
        )

    def _record(self, output: Output, logits: Float[Array, "B V"], token: Array) -> LogProbs:
        log_probs: Any = output.log_probs
        scores = jax.nn.log_softmax(logits.astype(jnp.float32), axis=-1)
        top, top_ids = jax.lax.top_k(scores, self.top_logprobs or 0)
        rows = jnp.arange(token.shape[0])
        slot = jnp.where(output.done, output.tokens.shape[1], output.lengths)
        return LogProbs(
            chosen=log_probs.chosen.at[rows, slot].set(scores[rows, token], mode="drop"),
            top_ids=log_probs.top_ids.at[rows, slot].set(top_ids, mode="drop"),
            top=log_probs.top.at[rows, slot].set(top, mode="drop"),
        )


jax.tree_util.register_dataclass(
    Autoregressive, ["sampler", "repetition_penalty"], ["top_logprobs", "prefill_window"]
)
