"""Decoding in which a policy says which blocks each token is read in."""

from dataclasses import dataclass, replace
from typing import Any

import jax.numpy as jnp

from jaxmodels.decoding.autoregressive import Autoregressive, AutoregressiveCarry
from jaxmodels.decoding.strategy import Output, Request, check_policy, tally
from jaxmodels.layers.spec import Params
from jaxmodels.models.depth import ALL_LAYERS, Depth, ReadingPrompts
from jaxmodels.models.language_model import BlockStack, LanguageModel
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class AdaptiveDepth:
    """`decode`, with each token read in the blocks that `depth` chooses.

    Log-probabilities are those of the token's own depth. The counter ``"layers"`` holds the passes through
    blocks that were read, per row.

    Attributes:
        depth: a policy, such as those of `jaxmodels.decoding.depth`; or the directory or name of a trained
            one, see `jaxmodels.load_depth`.
        prompt: the policy by which prompts are read; by default in full, or by `depth` itself where that
            is one of `ReadingPrompts`.
        decode: how the next token is picked.

    Raises:
        ValueError: an option of another kind; when run, a model without blocks, or one that a policy does
            not fit.
    """

    depth: Depth | str
    prompt: Depth | None = None
    decode: Autoregressive = Autoregressive()

    def __post_init__(self) -> None:
        if not isinstance(self.depth, str):
            check_policy("depth", self.depth, "through", "Plan((1, 0, 2))")
        if self.prompt is not None:
            check_policy("prompt", self.prompt, "through", "ALL_LAYERS")
        check_policy("decode", self.decode, "advance", "Autoregressive()")

    @property
    def policy(self) -> Depth:
        """`depth`, which is loaded where it was a name."""
        if isinstance(self.depth, str):
            raise ValueError(
                f"depth={self.depth!r} is a name, which Model.generate loads; give what jaxmodels.load_depth "
                "reads there"
            )
        return self.depth

    @property
    def prompt_policy(self) -> Depth:
        """The policy by which prompts are read."""
        if self.prompt is not None:
            return self.prompt
        return self.policy if isinstance(self.policy, ReadingPrompts) else ALL_LAYERS

    @property
    def prefill_window(self) -> int:
        return self.decode.prefill_window

    @property
    def lookahead(self) -> int:
        return 0

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Any, output: Output
    ) -> AutoregressiveCarry:
        if not isinstance(config, BlockStack):
            raise ValueError(
                f"a policy of depth needs a model made of blocks, which {type(config).__name__} is not"
            )
        (batch, slots), width = request.tokens.shape, output.tokens.shape[1]
        made = config.init_cache(batch, slots + width, config.dtype_of(params), depth=self.policy)
        cache = replace(cache, repeats=made.repeats, memory=made.memory)
        carry = self.decode.begin(config, params, request, cache, output, self.prompt_policy)
        zeros = jnp.zeros_like(carry.output.lengths)
        return replace(carry, output=replace(carry.output, counters={"calls": zeros, "layers": zeros}))

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: AutoregressiveCarry
    ) -> AutoregressiveCarry:
        after, pending = self.decode.advance(config, params, request, carry, self.policy)
        counters = tally(carry.output, calls=1, layers=pending.depth[:, 0]).counters
        return replace(after, output=replace(after.output, counters=counters))


register_dataclass(AdaptiveDepth, ["depth", "prompt", "decode"], [])
