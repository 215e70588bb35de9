"""SCMoE: a mixture of experts against itself with other experts active."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.decoding.processors.chain import Processor, process
from jaxmodels.decoding.processors.token_ids import checked_ids
from jaxmodels.decoding.samplers import Greedy, Sampler, check_number
from jaxmodels.decoding.strategy import (
    Output,
    Request,
    check_options,
    emit,
    has_choice,
    record_also,
    row_keys,
)
from jaxmodels.layers.moe import MoE, Ranked
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import BlockStack, Cache, LanguageModel
from jaxmodels.models.prefill import prefill
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class SCMoECarry:
    """What a step hands to the next.

    Attributes:
        cache, weak_cache: all tokens but the newest, as either activation saw them.
        token: i32[B], the newest.
        output: what has been generated.
    """

    cache: Cache
    weak_cache: Cache
    token: jax.Array
    output: Output


@dataclass(frozen=True, kw_only=True)
class SCMoE:
    """Decoding from ``(1 + beta) * strong - beta * weak`` logits of one mixture-of-experts model.

    The strong activation is the model as it is; the weak one has the same parameters with the experts at the
    given ranks of each router's scores active instead of the best ones. It has a cache of its own, so a step
    costs two. Source: https://arxiv.org/abs/2405.14507 and its code.

    Attributes:
        ranks: of the weak activation's experts, 0 being the best; by default the second best alone.
        beta: strength of the contrast; 0 is `Autoregressive`.
        alpha: only tokens that the strong activation gives at least this times the probability of its best
            one may be picked.
        sampler, processors: how the next token is picked from the contrast.
        top_logprobs, prefill_window: see `Autoregressive`; log-probabilities are the strong activation's.

    Raises:
        ValueError: a value outside its range; when run, a model without mixtures, or with too few experts.
    """

    ranks: tuple[int, ...] = (1,)
    beta: float = 0.5
    alpha: float = 0.1
    sampler: Sampler = Greedy()
    processors: tuple[Processor, ...] = ()
    top_logprobs: int | None = None
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_number("beta", self.beta, low=0.0)
        check_number("alpha", self.alpha, low=0.0, low_included=False, high=1.0)
        check_options(self, {})
        object.__setattr__(self, "ranks", checked_ids("ranks", self.ranks, "rank"))

    @property
    def lookahead(self) -> int:
        return 0

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> SCMoECarry:
        weak = weaken(config, self.ranks)
        (batch, slots), width = request.tokens.shape, output.tokens.shape[1]
        dtype = config.dtype_of(params)
        weak_cache = weak.init_cache(batch, slots + width, dtype)
        tokens, lengths = request.tokens, request.lengths
        last, cache = prefill(config, params, tokens, lengths, cache, self.prefill_window)
        weak_last, weak_cache = prefill(weak, params, tokens, lengths, weak_cache, self.prefill_window)
        output = record_also(output, (), self.top_logprobs)
        token = jnp.zeros((batch,), jnp.int32)
        carry = SCMoECarry(cache=cache, weak_cache=weak_cache, token=token, output=output)
        logits, weak_logits = (config.logits(params, hidden[:, None]) for hidden in (last, weak_last))
        return self._pick(carry, logits, weak_logits, request)

    def step(self, config: LanguageModel, params: Params, request: Request, carry: SCMoECarry) -> SCMoECarry:
        weak = weaken(config, self.ranks)
        running = (~carry.output.done).astype(jnp.int32)
        window = carry.token[:, None]
        strong_scored, pending = config.peek(params, window, carry.cache, valid=running)
        weak_scored, weak_pending = weak.peek(params, window, carry.weak_cache, valid=running)
        carry = replace(
            carry,
            cache=config.commit(pending),
            weak_cache=weak.commit(weak_pending),
            output=replace(carry.output, steps=carry.output.steps + 1),
        )
        return self._pick(carry, strong_scored.logits, weak_scored.logits, request)

    def _pick(
        self,
        carry: SCMoECarry,
        strong: Float[Array, "B 1 V"],
        weak: Float[Array, "B 1 V"],
        request: Request,
    ) -> SCMoECarry:
        """Emits each running row's next token."""
        output = carry.output
        scores = contrast(strong, weak, beta=self.beta, alpha=self.alpha)
        scores = process(self.processors, scores, request, output)
        token = self.sampler(scores[:, 0], row_keys(request, output.lengths))
        token = jnp.where(output.done, carry.token, token)
        output = emit(output, request, token[:, None], 1, strong, chosen=has_choice(scores))
        return replace(carry, token=token, output=output)


def contrast(
    strong: Float[Array, "... V"],
    weak: Float[Array, "... V"],
    *,
    beta: Float[Array, ""] | float,
    alpha: Float[Array, ""] | float,
) -> Float[Array, "... V"]:
    """``(1 + beta) * strong - beta * weak``, and -inf below `alpha` times the best strong probability."""
    plausible = strong >= strong.max(-1, keepdims=True) + jnp.log(alpha)
    return jnp.where(plausible, (1.0 + beta) * strong - beta * weak, -jnp.inf)


def weaken(config: LanguageModel, ranks: tuple[int, ...]) -> LanguageModel:
    """The model whose mixtures activate the experts at `ranks` instead of the best ones.

    Raises:
        ValueError: no block is a mixture of experts, or a mixture has fewer experts than `ranks` name.
    """
    blocks = config.blocks if isinstance(config, BlockStack) else ()
    if not any(isinstance(block.ffn, MoE) for block in blocks):
        raise ValueError("SCMoE contrasts mixtures of experts; the model has none")

    def weakened(block: Any) -> Any:
        if not isinstance(block.ffn, MoE):
            return block
        return replace(block, ffn=replace(block.ffn, router=Ranked(router=block.ffn.router, ranks=ranks)))

    stack: Any = config
    return replace(stack, blocks=tuple(weakened(block) for block in blocks))


register_dataclass(
    SCMoE, ["beta", "alpha", "sampler", "processors"], ["ranks", "top_logprobs", "prefill_window"]
)
