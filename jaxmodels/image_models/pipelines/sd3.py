"""Stable Diffusion 3 and 3.5 (https://arxiv.org/abs/2403.03206), with T5 or without."""

from collections.abc import Mapping
from typing import Any

from jaxmodels.image_models.conditions import Conditions, GivenTexts
from jaxmodels.image_models.diffusion import Habits
from jaxmodels.image_models.pipelines.diffusion import diffusion_pipeline, prompt_encoder, prompt_encoders
from jaxmodels.image_models.prompts.prompts import Prompts
from jaxmodels.image_models.prompts.sd3 import SD3Prompts


def conditions(denoiser: Any, texts: Mapping[str, Any]) -> Conditions:
    clips, t5 = prompt_encoders(texts, (1, 2)), prompt_encoder(texts, 3)
    if clips is None:
        return GivenTexts()
    return Prompts(reader=SD3Prompts(clips=(clips[0], clips[1]), t5=t5, width=denoiser.text.width))


PIPELINE = diffusion_pipeline(
    "StableDiffusion3Pipeline",
    conditions=conditions,
    habits=lambda denoiser: Habits(steps=28, guidance=7.0),
    encoders=3,
    # What reads images in place of prompts.
    unused=frozenset({"image_encoder", "feature_extractor"}),
)
