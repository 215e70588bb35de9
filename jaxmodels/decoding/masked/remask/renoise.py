"""Noise in the place of guesses, for models that know no mask token."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxmodels.decoding.masked.seen import Edited, Seen, Stop
from jaxmodels.models.filling import MaskFilling
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class Renoise:
    """A `Remask`: unknown places that this step did not fill in are given tokens drawn from the whole
    vocabulary, each as likely as any other.

    For models of uniform corruption, all of whose places are unknown until the block is finished. Source:
    `EntropyBoundSampler.renoise_canvas` of transformers (DiffusionGemma).
    """

    def check(self, filling: MaskFilling, stop: Stop | None) -> None:
        if filling.mask_token is not None:
            raise ValueError(
                "remask: Renoise puts random tokens in unknown places, where this model knows the mask token "
                f"{filling.mask_token}; leave it out"
            )

    def __call__(self, seen: Seen, tokens: Int[Array, "B L"]) -> Edited:
        shape, vocab = seen.tokens.shape[1:], seen.logits.shape[-1]
        noise = jax.vmap(lambda key: jax.random.randint(key, shape, 0, vocab, jnp.int32))(seen.keys)
        renewed = seen.masked & ~seen.filled
        return Edited(tokens=jnp.where(renewed, noise, tokens), unfinished=jnp.zeros(seen.step.shape, bool))


register_dataclass(Renoise, [], [])
