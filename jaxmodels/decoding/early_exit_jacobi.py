"""Jacobi decoding that leaves a block before it has converged: faster, and not exact."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct

from jaxmodels.decoding.acceptance import longest_agreement
from jaxmodels.decoding.draft_windows import first_token, settle
from jaxmodels.decoding.processors.chain import Processor, process
from jaxmodels.decoding.samplers import Greedy
from jaxmodels.decoding.strategy import Output, Request, check_options, has_choice
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class EarlyExitCarry:
    """The loop state.

    Attributes:
        cache: all tokens but the newest.
        token: i32[B], the newest token of each row.
        output: what has been generated.
        draft: i32[B, window - 1], the rest of the block.
        open: i32[B], how many of them there are.
        passes: i32[B], over this block.
    """

    cache: Cache
    token: jax.Array
    output: Output
    draft: jax.Array
    open: jax.Array
    passes: jax.Array


@dataclass(frozen=True, kw_only=True)
class EarlyExitJacobi:
    """Greedy Jacobi iteration over blocks, each left after some passes, converged or not: lossy.

    A block is the newest token and ``window - 1`` draft tokens. In each pass, tokens that the model agrees
    with are output, as by `Jacobi`, and the rest of the block becomes what the model said. In pass number
    `iterations` the whole draft is output as it stands, wrong or not, and what the model says behind it. So
    a block takes `iterations` passes at most, and what is output is what the model has seen: its history is
    the text. With ``iterations >= window`` nothing is left early, and the output is that of greedy
    `Autoregressive`. Meant for models trained by `training.objectives.consistency`, whose drafts are nearly
    right after few passes. Source: early-exit decoding of CEED-VLA (https://arxiv.org/abs/2506.13725), from
    its description: the exit after a fixed number of passes is the paper's; that tokens which agree are
    output at once, and that the model has read what it leaves, are this project's.

    Attributes:
        window: tokens that are scored at once, the newest included.
        iterations: passes over a block at most.
        processors, top_logprobs, prefill_window: see `Autoregressive`.

    Raises:
        ValueError: a value outside its range.
    """

    window: int = 8
    iterations: int = 3
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_options(self, {"window": 2, "iterations": 1})

    @property
    def lookahead(self) -> int:
        return self.window - 2

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> EarlyExitCarry:
        token, cache, output, _ = first_token(
            config, params, request, cache, output,
            sampler=Greedy(), processors=self.processors, top_logprobs=self.top_logprobs,
            prefill_window=self.prefill_window,
        )  # fmt: skip
        return EarlyExitCarry(
            cache=cache,
            token=token,
            output=output,
            draft=jnp.broadcast_to(token[:, None], (token.shape[0], self.window - 1)),
            open=jnp.full(token.shape, self.window - 1),
            passes=jnp.zeros(token.shape, jnp.int32),
        )

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: EarlyExitCarry
    ) -> EarlyExitCarry:
        output, draft, rest = carry.output, carry.draft, carry.open
        window = jnp.concatenate([carry.token[:, None], draft], axis=1)
        scored, pending = config.peek(
            params,
            window,
            carry.cache,
            valid=jnp.where(output.done, 0, 1 + rest),
            known=carry.cache.length + 1,
        )
        scores = process(self.processors, scored.logits, request, output, draft)
        choices = jnp.argmax(scores, axis=-1).astype(jnp.int32)
        passes = carry.passes + 1
        agreed = longest_agreement(choices, draft, rest)
        accepted = jnp.where(passes >= self.iterations, rest, agreed)
        count = jnp.minimum(accepted + 1, pending.valid)
        last = jnp.take_along_axis(choices, jnp.maximum(count - 1, 0)[:, None], axis=1)
        following = jnp.concatenate([draft, last], axis=1)
        tokens = jnp.where(jnp.arange(self.window) == count[:, None] - 1, last, following)
        token, cache, output = settle(
            config, request, output, pending, tokens, count, scored.logits,
            chosen=has_choice(scores), drafted=rest,
        )  # fmt: skip
        # As by `LastVerdict`: what the model said behind the newest token, filled up with the last of it.
        behind = jnp.minimum(count[:, None] + jnp.arange(self.window - 1), rest[:, None])
        is_over = count >= rest
        return EarlyExitCarry(
            cache=cache,
            token=token,
            output=output,
            draft=jnp.take_along_axis(choices, behind, axis=1),
            open=jnp.where(is_over, self.window - 1, rest - count),
            passes=jnp.where(is_over, 0, passes),
        )


register_dataclass(
    EarlyExitJacobi, ["processors"], ["window", "iterations", "top_logprobs", "prefill_window"]
)
