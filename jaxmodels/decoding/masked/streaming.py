"""`StreamingDiffusion`: masked generation in a window that moves on with what is known in front of it."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.draft_windows import fold_keys
from jaxmodels.decoding.masked.proposals import propose
from jaxmodels.decoding.masked.readings.known_first import KnownFirst
from jaxmodels.decoding.masked.readings.reading import Reading
from jaxmodels.decoding.masked.recording import recorded, room
from jaxmodels.decoding.masked.seen import Seen, Unmask
from jaxmodels.decoding.masked.unmask.entropy_threshold import EntropyThreshold
from jaxmodels.decoding.processors.chain import Processor, check_positional, process_places
from jaxmodels.decoding.samplers import Greedy, Sampler
from jaxmodels.decoding.strategy import (
    LogProbs,
    Output,
    Request,
    check_options,
    check_policy,
    emit,
    has_choice,
    record_also,
    row_keys,
    tally,
)
from jaxmodels.layers.spec import Params
from jaxmodels.models.filling import filling_of
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.pytrees import register_dataclass

RULES = 1


@struct.dataclass
class StreamingCarry:
    """What a step hands to the next.

    Attributes:
        cache: the prompt and all tokens in front of the window.
        tokens: i32[B, W], those of the window by their places, the mask token where they are unknown.
        found: their log-probabilities, [B, W]; None unless they are recorded.
        output: the tokens in front of the first unknown one.
    """

    cache: Cache
    tokens: jax.Array
    found: LogProbs | None
    output: Output


@dataclass(frozen=True, kw_only=True)
class StreamingDiffusion:
    """Fills in the next `window` tokens in any order, and moves on with every token that nothing unknown
    precedes.

    What precedes all that is unknown becomes history in the pass that reads it, exactly, because `reading`
    shows it nothing that is unknown. Logits speak of their own place. Rows move on independently. The
    counters are ``"calls"`` and ``"unmasked"`` tokens.

    Source: Liu et al. 2025 (WeDLM), its streaming window, with its values. With ``InBlocks(32)``, a window of
    several blocks and ``unmask=Pipelined(inner=32)`` that is D2F (Wang et al. 2025), which holds as many
    blocks as have begun; here no more begin than the window holds.

    Attributes:
        window: tokens that a step reads.
        unmask: which unknown places a step fills in.
        reading: in which order the model is shown the window, and who sees whom in it.
        sampler: how a token is proposed.
        processors, top_logprobs: see `MaskedDiffusion`.
        prefill_window: longest window in which prompts are fed.

    Raises:
        ValueError: a value outside its range, or a processor that goes by the text; when run, a model that
            does not fit the reading or was not trained to fill in tokens in their places.
    """

    window: int = 16
    unmask: Unmask = EntropyThreshold(0.4, 0.02)
    reading: Reading = KnownFirst()
    sampler: Sampler = Greedy()
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_options(self, {"window": 1})
        check_policy("unmask", self.unmask, "__call__", "EntropyThreshold(0.4, 0.02)")
        check_policy("reading", self.reading, "settled", "KnownFirst()")
        check_positional(self.processors)

    @property
    def lookahead(self) -> int:
        return self.window - 1

    def check_model(self, config: LanguageModel, max_new_tokens: int) -> None:
        """Raises ValueError, with the reason, where the model does not fit."""
        filling = filling_of(config)
        if filling is None or filling.mask_token is None or filling.offset:
            raise ValueError(
                "StreamingDiffusion: the model was not trained to fill in mask tokens in their own places "
                f"(filling={filling}); decode it with Autoregressive() or MaskedDiffusion()"
            )
        self.reading.check(config, self.window)

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> StreamingCarry:
        cache = self.reading.prefill(config, params, request, cache, self.prefill_window)
        output = record_also(output, ("calls", "unmasked"), self.top_logprobs)
        return StreamingCarry(
            cache=cache,
            tokens=jnp.full((request.tokens.shape[0], self.window), _mask_token(config), jnp.int32),
            found=room(output.log_probs, self.window),
            output=output,
        )

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: StreamingCarry
    ) -> StreamingCarry:
        mask_token, output = _mask_token(config), carry.output
        unknown = carry.tokens == mask_token
        told = _leading(~unknown)
        settled = self.reading.settled(told)
        start = carry.cache.length
        valid = jnp.where(output.done, 0, self.window)
        logits, pending = self.reading.score(config, params, carry.tokens, unknown, carry.cache, valid)
        cache = config.commit(pending, settled)
        seen = self._look(config, request, output, carry.tokens, start, logits)
        chosen = self.unmask(seen) & unknown & ~output.done[:, None]
        stuck = (chosen & ~has_choice(seen.logits)).any(1)
        tokens = jnp.where(chosen, seen.proposed, carry.tokens)
        found = recorded(carry.found, tokens, logits, chosen)

        output = tally(output, calls=1, unmasked=chosen.sum(1))
        output = self._emit(request, output, tokens, found, told, _leading(tokens != mask_token), stuck)
        tokens, found = _moved((tokens, found), settled)
        is_new = jnp.arange(self.window) >= self.window - settled[:, None]
        return StreamingCarry(
            cache=cache, tokens=jnp.where(is_new, mask_token, tokens), found=found, output=output
        )

    def _look(
        self,
        config: LanguageModel,
        request: Request,
        output: Output,
        tokens: Int[Array, "B W"],
        start: Int[Array, "B"],
        raw: Float[Array, "B W V"],
    ) -> Seen:
        """What the rule is shown of the window."""
        places = start[:, None] + jnp.arange(self.window, dtype=jnp.int32)
        answer = places - request.lengths[:, None]
        logits = process_places(self.processors, raw, request, output, answer)
        logits = logits.at[:, :, _mask_token(config)].set(-jnp.inf)
        keys = row_keys(request, output.counters["calls"])
        proposed, probability, distribution = propose(self.sampler, logits, keys)
        unknown = tokens == _mask_token(config)
        none = jnp.zeros_like(start)
        return Seen(
            tokens=tokens,
            masked=unknown,
            editable=~unknown,
            positions=places,
            logits=logits,
            proposed=proposed,
            probability=probability,
            distribution=distribution,
            step=output.counters["calls"],
            steps=jnp.full_like(start, self.window),
            initial=jnp.full_like(start, self.window),
            idle=none,
            keys=fold_keys(keys, RULES),
        )

    def _emit(
        self,
        request: Request,
        output: Output,
        tokens: Int[Array, "B W"],
        found: LogProbs | None,
        told: Int[Array, "B"],
        known: Int[Array, "B"],
        stuck: Bool[Array, "B"],
    ) -> Output:
        """The output with the tokens between the first `told` of the window and the first unknown one."""
        ahead, found = _moved((tokens, found), told)
        chosen = jnp.ones(ahead.shape, bool)
        output = emit(output, request, ahead, known - told, found=found, chosen=chosen)
        return replace(output, steps=output.steps + 1, done=output.done | stuck, stuck=output.stuck | stuck)


def _mask_token(config: LanguageModel) -> int:
    filling = filling_of(config)
    assert filling is not None and filling.mask_token is not None  # `check_model` was asked
    return filling.mask_token


def _leading(these: Bool[Array, "B W"]) -> Int[Array, "B"]:
    """How many places in front hold."""
    return jnp.cumprod(these.astype(jnp.int32), axis=1).sum(1, dtype=jnp.int32)


def _moved(window: Any, count: Int[Array, "B"]) -> Any:
    """Arrays [B, W, ...] with each row moved to the front by `count` places; its end is arbitrary."""
    return jax.tree.map(lambda a: jax.vmap(lambda row, n: jnp.roll(row, -n, axis=0))(a, count), window)


register_dataclass(
    StreamingDiffusion,
    ["unmask", "sampler", "processors"],
    ["window", "reading", "top_logprobs", "prefill_window"],
)
