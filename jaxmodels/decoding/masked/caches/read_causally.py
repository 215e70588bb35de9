"""Finished blocks are read causally, and the block in flight as a canvas: the two readings of one model."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.decoding.masked.caches.kept import Kept, Shown, once_if_any
from jaxmodels.decoding.masked.canvas import look
from jaxmodels.decoding.strategy import Request
from jaxmodels.models.denoising import as_denoiser, denoise, denoising_of, guess_of
from jaxmodels.models.language_model import Cache, LanguageModel
from jaxmodels.models.prefill import prefill
from jaxmodels.models.scored import NOWHERE
from jaxmodels.pytrees import register_dataclass


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

    def begin(self, shown: Shown, request: Request, cache: Cache, window: int) -> Kept:
        config, canvas, params = shown.config, shown.canvas, shown.params
        _, cache = prefill(config, params, request.tokens, request.lengths, cache, window)
        shape = (canvas.start.shape[0], denoising_of(config).canvas_length, config.vocab_size)
        logits = jax.ShapeDtypeStruct(shape, jnp.float32)
        guess = jax.eval_shape(lambda logits: guess_of(as_denoiser(config), params, logits), logits)
        return Kept(
            cache=cache, refreshes=jnp.zeros_like(canvas.start), memory=jnp.zeros(guess.shape, guess.dtype)
        )

    def score(self, shown: Shown, kept: Kept) -> tuple[Float[Array, "B L V"], Kept]:
        config, canvas = shown.config, shown.canvas
        tokens, model = look(canvas.tokens, shown.places), as_denoiser(config)
        scored, pending = denoise(model, shown.params, tokens, kept.memory, kept.cache, valid=canvas.size)
        return scored.logits, replace(kept, cache=config.commit(pending, jnp.zeros_like(canvas.start)))

    def note(self, shown: Shown, kept: Kept, logits: Float[Array, "B L V"]) -> Kept:
        return replace(kept, memory=guess_of(as_denoiser(shown.config), shown.params, logits))

    def advance(self, shown: Shown, kept: Kept, finished: Bool[Array, "B"]) -> Kept:
        def settle(kept: Kept) -> Kept:
            tokens = look(shown.canvas.tokens, shown.places)
            count = jnp.where(finished, shown.canvas.size, 0)
            _, pending = shown.config.peek(shown.params, tokens, kept.cache, valid=count, logits_at=NOWHERE)
            return Kept(
                cache=shown.config.commit(pending, count),
                refreshes=kept.refreshes + finished,
                memory=jnp.where(finished[:, None, None], 0, kept.memory),
            )

        return once_if_any(finished, settle, kept)


register_dataclass(ReadCausally, [], [])
