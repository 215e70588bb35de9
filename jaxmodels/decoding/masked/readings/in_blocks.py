"""Blocks that see the ones in front of them, wherever a prompt ends."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import whole
from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.masks import BIDIRECTIONAL, Bidirectional
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.scored import NOWHERE


@dataclass(frozen=True)
class InBlocks:
    """A `Reading` for models of both ways that were trained on to see no later block: the prompt is a block
    of its own, and blocks of `length` tokens follow it.

    The tokens of a block see the prompt, the blocks in front of it and each other. A block becomes history,
    exactly, in the pass that finds it and all in front of it known. Source: Wang et al. 2025 (D2F,
    https://arxiv.org/abs/2508.09192), whose LoRA makes such a model of LLaDA; the model's configuration does
    not tell, so that any model of both ways is taken.

    Attributes:
        length: tokens of a block.

    Raises:
        ValueError: `length` below 1; when run, a model of another mask, a window that is no multiple of
            `length`, or prompts beyond `prefill_window`.
    """

    length: int = 32

    def __post_init__(self) -> None:
        object.__setattr__(self, "length", whole("InBlocks: length", self.length, low=1))

    def check(self, config: LanguageModel, window: int) -> None:
        if not isinstance(config.mask, Bidirectional):
            raise ValueError(
                f"InBlocks: the model was not made of one that sees both ways (mask={config.mask}); use "
                "MaskedDiffusion() for models of block diffusion, reading=KnownFirst() for causal ones"
            )
        if window % self.length:
            raise ValueError(f"window={window} is no multiple of the blocks of {self.length} tokens")

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, window: int
    ) -> Cache:
        slots = request.tokens.shape[1]
        if slots > window:
            raise ValueError(
                f"prefill_window={window} must hold the whole prompt, which sees itself both ways: {slots} "
                "slots"
            )
        _, pending = config.peek(
            params,
            request.tokens,
            cache,
            mask=BIDIRECTIONAL,
            valid=request.lengths,
            logits_at=NOWHERE,
        )
        return config.commit(pending)

    def settled(self, known: Int[Array, "B"]) -> Int[Array, "B"]:
        return known // self.length * self.length

    def score(
        self,
        config: LanguageModel,
        params: Params,
        tokens: Int[Array, "B W"],
        unknown: Bool[Array, "B W"],
        cache: Cache,
        valid: Int[Array, "B"],
    ) -> tuple[Float[Array, "B W V"], Any]:
        block = jnp.arange(tokens.shape[1]) // self.length
        sees = block[:, None] >= block
        scored, pending = config.peek(params, tokens, cache, mask=sees, valid=valid)
        return scored.logits, pending
