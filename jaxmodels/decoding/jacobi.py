"""Jacobi decoding: the model's own earlier verdict on a window is the guess for the next one."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.decoding.guesses import first_token, in_rows_that_run, settle
from jaxmodels.decoding.processors.chain import Processor, process
from jaxmodels.decoding.samplers import Greedy
from jaxmodels.decoding.strategy import Output, Request, check_options, has_choice
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel


@struct.dataclass
class JacobiCarry:
    """cache: all tokens but the newest. window: i32[B, W], the newest token and the guesses behind it."""

    cache: Cache
    window: jax.Array
    output: Output


@dataclass(frozen=True, kw_only=True)
class Jacobi:
    """Greedy decoding as a fixed point, `window` tokens at a time.

    Every step scores the newest token and ``window - 1`` guesses at once. The guesses that equal the model's
    most probable token are right, because all before them are; they and the first correction are emitted. The
    rest of the verdict, moved to the front and filled up with its last token, is the next guess. The output
    is that of greedy `Autoregressive` with the same processors, token for token. Each step emits at least one
    token per row.

    processors, top_logprobs, prefill_window: see `Autoregressive`. Source: Santilli et al. 2023.

    Raises:
        ValueError: a value outside its range.
    """

    window: int = 8
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_options(self, {"window": 2})  # the newest token and a guess

    @property
    def lookahead(self) -> int:
        return self.window - 2

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> JacobiCarry:
        token, cache, output = first_token(
            config, params, request, cache, output,
            sampler=Greedy(), processors=self.processors,
            top_logprobs=self.top_logprobs, prefill_window=self.prefill_window,
        )  # fmt: skip
        window = jnp.broadcast_to(token[:, None], (token.shape[0], self.window))
        return JacobiCarry(cache=cache, window=window, output=output)

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: JacobiCarry
    ) -> JacobiCarry:
        valid = in_rows_that_run(carry.output, self.window)
        scored, pending = config.peek(
            params, carry.window, carry.cache, valid=valid, known=carry.cache.length + 1
        )
        scores = process(self.processors, scored.logits, request, carry.output, carry.window[:, 1:])
        verdict = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        held = carry.window[:, 1:] == verdict[:, :-1]
        count = jnp.minimum(1 + jnp.cumprod(held, axis=1).sum(1), pending.valid)
        _, cache, output = settle(
            config, request, carry.output, pending, verdict, count, scored.logits, chosen=has_choice(scores)
        )
        following = jnp.clip(count[:, None] - 1 + jnp.arange(self.window), 0, self.window - 1)
        window = jnp.take_along_axis(verdict, following, axis=1)
        return JacobiCarry(cache=cache, window=window, output=output)


jax.tree_util.register_dataclass(Jacobi, ["processors"], ["window", "top_logprobs", "prefill_window"])
