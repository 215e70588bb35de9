"""Finished blocks are read causally, and the block in flight as a canvas: the two readings of one model."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.masked.caches.kept import Kept, once_if_any
from jaxmodels.decoding.masked.canvas import Canvas, block_places, look
from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoising import as_denoiser, denoise, denoising_of, guess_of
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.prefill import prefill
from jaxmodels.models.scored import NOWHERE


@dataclass(frozen=True)
class ReadCausally:
    """A step reads the block as a canvas, behind the prompt and all finished blocks, which are read causally
    once and are history. A canvas is told what the model made of it in the step before.

    For models with a `denoising` (DiffusionGemma), whose canvases are its blocks.
    """

    scores_all = True

    def check(self, config: LanguageModel, length: int) -> None:
        trained = denoising_of(config).canvas_length
        if length != trained:
            raise ValueError(
                f"blocks of {length} tokens: the model was trained on canvases of {trained} (canvas_length); "
                f"use blocks=FixedBlocks({trained})"
            )

    def begin(
        self,
        config: LanguageModel,
        params: Params,
        request: Request,
        canvas: Canvas,
        cache: Cache,
        window: int,
    ) -> Kept:
        _, cache = prefill(config, params, request.tokens, request.lengths, cache, window)
        shape = (canvas.start.shape[0], denoising_of(config).canvas_length, config.vocab_size)
        logits = jax.ShapeDtypeStruct(shape, jnp.float32)
        guess = jax.eval_shape(lambda logits: guess_of(as_denoiser(config), params, logits), logits)
        return Kept(
            cache=cache, refreshes=jnp.zeros_like(canvas.start), memory=jnp.zeros(guess.shape, guess.dtype)
        )

    def score(
        self, config: LanguageModel, params: Params, canvas: Canvas, kept: Kept, length: int
    ) -> tuple[Float[Array, "B L V"], Kept]:
        tokens = look(canvas.tokens, block_places(canvas, length))
        model = as_denoiser(config)
        scored, pending = denoise(model, params, tokens, kept.memory, kept.cache, valid=canvas.size)
        return scored.logits, replace(kept, cache=config.commit(pending, jnp.zeros_like(canvas.start)))

    def note(self, config: LanguageModel, params: Params, kept: Kept, logits: Float[Array, "B L V"]) -> Kept:
        return replace(kept, memory=guess_of(as_denoiser(config), params, logits))

    def advance(
        self,
        config: LanguageModel,
        params: Params,
        canvas: Canvas,
        kept: Kept,
        length: int,
        finished: Bool[Array, "B"],
    ) -> Kept:
        def settle(kept: Kept) -> Kept:
            tokens = look(canvas.tokens, block_places(canvas, length))
            count = jnp.where(finished, canvas.size, 0)
            _, pending = config.peek(params, tokens, kept.cache, valid=count, logits_at=NOWHERE)
            return Kept(
                cache=config.commit(pending, count),
                refreshes=kept.refreshes + finished,
                memory=jnp.where(finished[:, None, None], 0, kept.memory),
            )

        return once_if_any(finished, settle, kept)


jax.tree_util.register_dataclass(ReadCausally, [], [])
