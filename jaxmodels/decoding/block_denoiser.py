"""Masked diffusion block by block: a block starts as masks and is unmasked where the model is confident."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.decoding.draft_windows import in_rows_that_run
from jaxmodels.decoding.processors.chain import Processor, process
from jaxmodels.decoding.samplers import Greedy, Sampler, check_number
from jaxmodels.decoding.strategy import (
    Output,
    Request,
    check_options,
    emit,
    has_choice,
    record_also,
    row_keys,
    tally,
)
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.scored import NOWHERE


@struct.dataclass
class BlockDenoiserCarry:
    """What a step hands to the next.

    Attributes:
        cache: the prompt and all settled blocks.
        block: i32[B, L], the tokens of the block that follows them, the mask token where they are not known
            yet.
        output: what has been generated.
    """

    cache: Cache
    block: jax.Array
    output: Output


@dataclass(frozen=True, kw_only=True)
class BlockDenoiser:
    """Generates `block_length` tokens at a time with a model that was trained to fill masks.

    Each step scores the block, whose tokens see the history and each other both ways, without making it
    history. Every masked position proposes a token; those are unmasked whose probability is at least
    `threshold`, and always the most probable one, so that a block takes at most `block_length` steps. One
    more step, in which the whole block is known, commits it. Rows go through their blocks independently. On
    recurrent layers the block runs in its order, see `Bidirectional`.

    The logits at a position speak of that position, not of the next one. The prompt, whose tokens see each
    other both ways as well, is fed at once. The counter ``"unmasked"`` holds the tokens that steps unmasked.
    Sources: Nie et al. 2025 (LLaDA); Wu et al. 2025 (Fast-dLLM), its threshold rule.

    Attributes:
        mask_token: the id of the mask, which is never proposed.
        block_length: tokens of a block.
        threshold: probability from which a proposed token is accepted.
        sampler: how a token is proposed.
        processors: see `Autoregressive`; only those that go by a token's place, because the text before it is
            not known when it is proposed.
        prefill_window: longest prompt.

    Raises:
        ValueError: a value outside its range, or a processor that goes by the text; when run, a mask token
            outside the vocabulary or prompts beyond `prefill_window`.
    """

    mask_token: int
    block_length: int = 32
    threshold: float = 0.9
    sampler: Sampler = Greedy()
    processors: tuple[Processor, ...] = ()
    prefill_window: int = 2048

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)
        check_options(self, {"block_length": 1, "mask_token": 0})
        for processor in self.processors:
            if not processor.positional:
                raise ValueError(
                    f"processors: {processor} goes by the text before a token, which a block that is "
                    "unmasked in any order does not have; leave it out, or decode with Autoregressive"
                )

    @property
    def lookahead(self) -> int:
        return self.block_length - 1

    def prefill(
        self, config: LanguageModel, params: Params, request: Request, cache: Cache, output: Output
    ) -> BlockDenoiserCarry:
        if self.mask_token >= config.vocab_size:
            raise ValueError(
                f"mask_token={self.mask_token} lies outside the vocabulary 0 to {config.vocab_size - 1}"
            )
        batch, slots = request.tokens.shape
        if slots > self.prefill_window:
            raise ValueError(
                f"prefill_window={self.prefill_window} must hold the whole prompt, which sees itself both "
                f"ways: {slots} slots"
            )
        _, pending = config.peek(
            params,
            request.tokens,
            cache,
            mask=BIDIRECTIONAL,
            valid=request.lengths,
            logits_at=NOWHERE,
        )
        return BlockDenoiserCarry(
            cache=config.commit(pending),
            block=jnp.full((batch, self.block_length), self.mask_token, jnp.int32),
            output=record_also(output, ("calls", "unmasked"), None),
        )

    def step(
        self, config: LanguageModel, params: Params, request: Request, carry: BlockDenoiserCarry
    ) -> BlockDenoiserCarry:
        output, block = carry.output, carry.block
        valid = in_rows_that_run(output, self.block_length)
        scored, pending = config.peek(params, block, carry.cache, mask=BIDIRECTIONAL, valid=valid)
        masked = block == self.mask_token
        was_finished = ~masked.any(1)
        cache = config.commit(pending, jnp.where(was_finished, valid, 0))

        keys = row_keys(request, output.counters["calls"])
        scores = process(self.processors, scored.logits, request, output, block[:, 1:])
        scores = scores.at[:, :, self.mask_token].set(-jnp.inf)
        token, probability = self._propose(scores, keys)
        stuck = (masked & ~has_choice(scores)).any(1) & ~output.done
        chosen = self._choose(probability, masked)
        block = jnp.where(chosen, token, block)
        is_finished = ~(block == self.mask_token).any(1) & ~was_finished
        counters = tally(output, calls=1, unmasked=chosen.sum(1)).counters
        count = jnp.where(is_finished & ~stuck, self.block_length, 0)
        output = emit(output, request, block, count, chosen=jnp.ones(block.shape, bool))
        output = replace(
            output,
            steps=output.steps + 1,
            counters=counters,
            done=output.done | stuck,
            stuck=output.stuck | stuck,
        )
        block = jnp.where(was_finished[:, None], self.mask_token, block)
        return BlockDenoiserCarry(cache=cache, block=block, output=output)

    def _propose(
        self, scores: Float[Array, "B S V"], keys: Array
    ) -> tuple[Int[Array, "B S"], Float[Array, "B S"]]:
        """A token for every position and its probability."""
        batch, size, vocab = scores.shape
        keys = jax.vmap(lambda key: jax.random.split(key, size))(keys).reshape(-1)
        token = self.sampler(scores.reshape(-1, vocab), keys).reshape(batch, size)
        scores = jax.nn.log_softmax(scores, axis=-1)
        return token, jnp.exp(jnp.take_along_axis(scores, token[:, :, None], axis=2)[:, :, 0])

    def _choose(self, probability: Float[Array, "B S"], masked: Bool[Array, "B S"]) -> Bool[Array, "B S"]:
        """Which masked positions are unmasked."""
        best = jnp.argmax(jnp.where(masked, probability, -1.0), axis=1)
        is_best = jnp.arange(masked.shape[1]) == best[:, None]
        return masked & (is_best | (probability >= self.threshold))


jax.tree_util.register_dataclass(
    BlockDenoiser, ["threshold", "sampler", "processors"], ["mask_token", "block_length", "prefill_window"]
)
