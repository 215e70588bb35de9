"""PixArt-alpha and PixArt-Sigma (https://arxiv.org/abs/2310.00426, https://arxiv.org/abs/2403.04692).

The size that is asked for is the size that is drawn. `diffusers` draws the nearest of a list of sizes unless
told otherwise, and scales and cuts the result.
"""

from collections.abc import Mapping
from typing import Any

from jaxmodels.checkpoints.pipelines import Pipeline
from jaxmodels.image_models.conditions import Conditions, GivenTexts
from jaxmodels.image_models.diffusion import Habits
from jaxmodels.image_models.pipelines.diffusion import diffusion_pipeline, prompt_encoder
from jaxmodels.image_models.prompts.pixart import PixArtPrompts
from jaxmodels.image_models.prompts.prompts import Prompts


def pixart(name: str, length: int) -> Pipeline:
    """length: of prompts, in tokens."""

    def conditions(denoiser: Any, texts: Mapping[str, Any]) -> Conditions:
        told, t5 = denoiser.conditioner.sizes is not None, prompt_encoder(texts)
        if t5 is None:
            return GivenTexts(tells_size=told)
        return Prompts(reader=PixArtPrompts(encoder=t5, length=length), tells_size=told)

    return diffusion_pipeline(
        name,
        conditions=conditions,
        habits=lambda denoiser: Habits(steps=20, guidance=4.5),
        encoders=1,
    )


ALPHA, SIGMA = pixart("PixArtAlphaPipeline", 120), pixart("PixArtSigmaPipeline", 300)
