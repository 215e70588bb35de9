"""Exits of thinking: a policy watches the segment in which a model thinks, and cuts it off."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.strategy import Output, Request, check_policy, emit, tally
from jaxmodels.decoding.thinking.delimiters import Delimiters, Place
from jaxmodels.decoding.thinking.policy import ThinkingPolicy, watch
from jaxmodels.layers.spec import Params
from jaxmodels.models.depth import ALL_LAYERS
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.scored import Scored
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class ThinkingCarry:
    """What a step hands to the next.

    Attributes:
        cache: all tokens but the newest.
        token: i32[B], the newest token of each row, not yet history.
        output: what has been generated.
        place: where each row's text stands, the newest token included.
        notes: the policy's.
        closing: i32[B], closing tokens that are still to be written.
    """

    cache: Cache
    token: jax.Array
    output: Output
    place: Place
    notes: Any
    closing: jax.Array


@dataclass(frozen=True, kw_only=True)
class ThinkingExit:
    """`decode`, with thinking cut off where a policy says so: the closing tokens are written, and the answer
    follows as usual.

    The policy is asked behind each token of a segment, also of one that began in the prompt, but not behind
    the prompt itself. Each row leaves by itself. A segment that the model ends is left alone, and where none
    is cut off the output is that of `decode`. Log-probabilities are the model's, of closing tokens too.
    The counter ``"thinking"`` holds the answer's tokens behind the beginning of a segment up to its end, that
    delimiter included, and ``"exits"`` the segments that were cut off.

    Attributes:
        delimiters: the tokens around the segment.
        policy: `Probe` or `PathDeviation` of `jaxmodels.decoding.thinking`, or another `ThinkingPolicy`.
        decode: how the other tokens are picked. Its processors do not change the closing tokens.

    Raises:
        ValueError: an option of another kind; when run, a token outside the vocabulary, or a policy with
            parameters of another model.
    """

    delimiters: Delimiters
    policy: ThinkingPolicy
    decode: Autoregressive = Autoregressive()

    def __post_init__(self) -> None:
        check_policy("delimiters", self.delimiters, "follow", "Delimiters(begin=5, end=6)")
        check_policy("policy", self.policy, "look", "Probe(...)")
        check_policy("decode", self.decode, "choose", "Autoregressive()")

    @property
    def prefill_window(self) -> int:
        return self.decode.prefill_window

    @property
    def lookahead(self) -> int:
        return 0

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> ThinkingCarry:
        begun = self.decode.begin(config, params, request, cache, output, ALL_LAYERS)
        place, _ = self.delimiters.behind(request.tokens, request.lengths)
        zeros = jnp.zeros_like(request.lengths)
        started = replace(output, counters={"thinking": zeros, "exits": zeros})
        carry = ThinkingCarry(
            cache=begun.cache,
            token=begun.token,
            output=started,
            place=place,
            notes=self.policy.begin(request.lengths.shape[0]),
            closing=zeros,
        )
        return self._follow(carry, replace(begun.output, counters=started.counters), begun.token)

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: ThinkingCarry
    ) -> ThinkingCarry:
        output = carry.output
        running = (~output.done).astype(jnp.int32)
        scored, pending = config.peek(
            params, carry.token[:, None], carry.cache, valid=running, taps=self.policy.taps
        )
        output = replace(output, steps=output.steps + 1)
        carry = self._look(replace(carry, cache=config.commit(pending), output=output), scored)
        return self._pick(carry, scored.logits, request)

    def _look(self, carry: ThinkingCarry, scored: Scored) -> ThinkingCarry:
        """Asks the policy, of rows that think and are not about to close."""
        streams = {name: tap[:, 0] for name, tap in scored.taps.items()}
        score, notes = watch(self.policy, carry.place, carry.token, scored.logits[:, 0], streams, carry.notes)
        leaves = (carry.closing == 0) & (score > self.policy.threshold)
        return replace(
            carry,
            notes=notes,
            closing=jnp.where(leaves, len(self.delimiters.closes), carry.closing),
            output=tally(carry.output, exits=leaves.astype(jnp.int32)),
        )

    def _pick(self, carry: ThinkingCarry, logits: Float[Array, "B 1 V"], request: Request) -> ThinkingCarry:
        """Emits each running row's next token: a closing one, or what `decode` picks."""
        output, closes = carry.output, jnp.asarray(self.delimiters.closes, jnp.int32)
        token, chosen = self.decode.choose(output, logits, request)
        is_closing = carry.closing > 0
        token = jnp.where(is_closing, closes[len(closes) - carry.closing], token)
        token = jnp.where(output.done, carry.token, token)
        emitted = emit(output, request, token[:, None], 1, logits, chosen=chosen | is_closing[:, None])
        carry = replace(carry, closing=jnp.maximum(carry.closing - 1, 0))
        return self._follow(carry, emitted, token)

    def _follow(self, carry: ThinkingCarry, output: Output, token: Int[Array, "B"]) -> ThinkingCarry:
        """Behind what was emitted: `output` holds one more token in the rows that took one."""
        written = output.lengths > carry.output.lengths
        counted = tally(carry.output, thinking=(carry.place.inside & written).astype(jnp.int32)).counters
        return replace(
            carry,
            token=token,
            output=replace(output, counters=counted),
            place=self.delimiters.follow(carry.place, token, written),
        )


register_dataclass(ThinkingExit, ["delimiters", "policy", "decode"], [])
