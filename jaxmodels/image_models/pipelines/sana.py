"""Sana (https://arxiv.org/abs/2410.10629).

Prompts are read as they are: the instruction that the pipeline of `diffusers` puts in front of them by
default is part of no file, see `SanaPrompts`. The size that is asked for is drawn, as with PixArt.
"""

from collections.abc import Mapping
from typing import Any

from jaxmodels.image_models.conditions import Conditions, GivenTexts
from jaxmodels.image_models.diffusion import Habits
from jaxmodels.image_models.pipelines.diffusion import diffusion_pipeline, prompt_encoder
from jaxmodels.image_models.prompts.prompts import Prompts
from jaxmodels.image_models.prompts.sana import SanaPrompts


def conditions(denoiser: Any, texts: Mapping[str, Any]) -> Conditions:
    gemma = prompt_encoder(texts)
    told = denoiser.conditioner.guided
    if gemma is None:
        return GivenTexts(tells_strength=told)
    return Prompts(reader=SanaPrompts(encoder=gemma), tells_strength=told)


PIPELINE = diffusion_pipeline(
    "SanaPipeline",
    conditions=conditions,
    habits=lambda denoiser: Habits(steps=20, guidance=4.5, tells_strength=denoiser.conditioner.guided),
    encoders=1,
)
