"""Early exit: a token leaves the stack of blocks as soon as a policy is confident in what it would say."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.decoding.autoregressive import Autoregressive, AutoregressiveCarry
from jaxmodels.decoding.samplers import check_number
from jaxmodels.decoding.strategy import Output, Request, check_options, check_policy, tally
from jaxmodels.layers.spec import Params
from jaxmodels.models.block import Stream
from jaxmodels.models.depth import Walk
from jaxmodels.models.language_model import BlockStack, Cache, LanguageModel


class Confidence(Protocol):
    """How sure the model is of each token behind a block. Implementations are pytrees."""

    def __call__(
        self, stream: Stream, head: Callable[[Stream], Float[Array, "B S V"]]
    ) -> Float[Array, "B S"]: ...


@dataclass(frozen=True)
class MaxProbability:
    """The probability of the most probable token: one pass of the head per block that is asked about."""

    def __call__(
        self, stream: Stream, head: Callable[[Stream], Float[Array, "B S V"]]
    ) -> Float[Array, "B S"]:
        logits = head(stream).astype(jnp.float32)
        return jnp.exp(logits.max(-1) - jax.nn.logsumexp(logits, axis=-1))


@dataclass(frozen=True, kw_only=True)
class UntilConfident:
    """A `Depth`: at least `min_layers` blocks, then until every real token's confidence reaches `threshold`.

    Each further block is one `lax.cond` around what it reads; what it writes stands outside, where a skipped
    block sees the stream of the exit. Rows without real tokens have no say.

    Raises:
        ValueError: when run, a `min_layers` that exceeds the model's blocks.
    """

    confidence: Confidence
    threshold: Array | float
    min_layers: int

    def read(
        self, index: int, read: Callable[[Stream], Stream], stream: Stream, walk: Walk
    ) -> tuple[Stream, Walk]:
        if self.min_layers > walk.blocks:
            raise ValueError(f"min_layers={self.min_layers} exceeds the model's {walk.blocks} layers")

        def go_on(stream: Stream) -> tuple[Stream, Array, Array]:
            after = read(stream)
            unasked = index + 1 < self.min_layers or index + 1 == walk.blocks
            stopped = jnp.zeros((), bool) if unasked else self._is_confident(after, walk)
            return after, walk.depth + 1, stopped

        def skip(stream: Stream) -> tuple[Stream, Array, Array]:
            return stream, walk.depth, walk.stopped

        if index < self.min_layers:
            stream, depth, stopped = go_on(stream)
        else:
            stream, depth, stopped = lax.cond(walk.stopped, skip, go_on, stream)
        return stream, replace(walk, depth=depth, stopped=stopped)

    def _is_confident(self, stream: Stream, walk: Walk) -> Array:
        sure = self.confidence(stream, walk.head) >= self.threshold
        return (sure | ~walk.window.is_valid).all()


@dataclass(frozen=True, kw_only=True)
class EarlyExit:
    """`decode`, with each step's token leaving the blocks where the model is confident.

    After `min_layers` blocks and after each further one, the head's verdict on the stream is looked at; once
    the `confidence` of all rows that still run is at least `threshold`, the remaining blocks only fill their
    history from that stream. Prompts are read in full. A threshold above 1 never exits, and gives exactly
    what `decode` gives. Log-probabilities are those of the token's own depth. The counter ``"layers"`` holds
    the blocks that were read. Source: Schuster et al. 2022 (CALM), with an exit common to the batch, and its
    state propagation extended from keys and values to recurrent states.

    Raises:
        ValueError: a value outside its range; when run, more `min_layers` than the model has blocks.
    """

    threshold: float = 0.9
    min_layers: int = 1
    confidence: Confidence = MaxProbability()
    decode: Autoregressive = Autoregressive()

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)
        check_options(self, {"min_layers": 1})
        check_policy("confidence", self.confidence, "__call__", "MaxProbability()")
        check_policy("decode", self.decode, "advance", "Autoregressive()")

    @property
    def prefill_window(self) -> int:
        return self.decode.prefill_window

    @property
    def lookahead(self) -> int:
        return 0

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> AutoregressiveCarry:
        if not isinstance(config, BlockStack):
            raise ValueError(
                f"EarlyExit leaves a model's blocks early, and {type(config).__name__} is not made of blocks"
            )
        carry = self.decode.prefill(config, params, request, cache, output)
        zeros = jnp.zeros_like(carry.output.lengths)
        return replace(carry, output=replace(carry.output, counters={"calls": zeros, "layers": zeros}))

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: AutoregressiveCarry
    ) -> AutoregressiveCarry:
        depth = UntilConfident(
            confidence=self.confidence, threshold=self.threshold, min_layers=self.min_layers
        )
        after, pending = self.decode.advance(config, params, request, carry, depth)
        counters = tally(carry.output, calls=1, layers=pending.depth).counters
        return replace(after, output=replace(after.output, counters=counters))


jax.tree_util.register_dataclass(MaxProbability, [], [])
jax.tree_util.register_dataclass(EarlyExit, ["threshold", "confidence", "decode"], ["min_layers"])
