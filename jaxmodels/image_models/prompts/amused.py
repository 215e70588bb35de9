"""aMUSEd's prompts: one CLIP, and numbers that describe the picture."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from jaxmodels.image_models.prompts.encoder import PromptEncoder
from jaxmodels.models.token_images.condition import Prompt

CLIP_LENGTH = 77


@dataclass(frozen=True, kw_only=True)
class AmusedPrompts:
    """CLIP's states behind the last block but one and its pooled vector; padding is looked at, as
    `AmusedPipeline` has it.

    Attributes:
        encoder: with a projection.
        crop: the corner of the picture that is shown, as rows and columns cut off.
        score: how much the picture is to be liked, from 0 to 10.
    """

    encoder: PromptEncoder
    crop: tuple[int, int] = (0, 0)
    score: float = 6.0

    def read(self, prompts: Sequence[str], height: int, width: int) -> Prompt:
        """A row for each prompt, of pictures of so many pixels."""
        encoded = self.encoder.encode_whole(prompts, self.encoder.longest(CLIP_LENGTH), states=(-2,))
        # The width comes first, as in training.
        described = jnp.array([width, height, *self.crop, self.score], jnp.float32)
        return Prompt(
            tokens=encoded.states[0],
            pooled=encoded.pooled,
            described=jnp.tile(described, (len(prompts), 1)),
        )
