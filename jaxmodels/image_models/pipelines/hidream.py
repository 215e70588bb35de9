"""HiDream-I1 (https://arxiv.org/abs/2505.22705).

The size that is asked for is the size that is drawn; `diffusers` draws as many pixels as the model was
trained on, in that shape. Where the scheduler shifts by the number of patches, these are those of the canvas;
there they are the most that the denoiser takes.
"""

from collections.abc import Mapping
from typing import Any

from jaxmodels.image_models.conditions import Conditions, GivenTexts
from jaxmodels.image_models.diffusion import Habits
from jaxmodels.image_models.pipelines.diffusion import diffusion_pipeline, prompt_encoders
from jaxmodels.image_models.prompts.hidream import HiDreamPrompts
from jaxmodels.image_models.prompts.prompts import Prompts


def conditions(denoiser: Any, texts: Mapping[str, Any]) -> Conditions:
    encoders = prompt_encoders(texts, (1, 2, 3, 4))
    if encoders is None:
        return GivenTexts()
    first, second, t5, llama = encoders
    layers = 1 + max(denoiser.state_layers)
    return Prompts(reader=HiDreamPrompts(clips=(first, second), t5=t5, llama=llama, layers=layers))


PIPELINE = diffusion_pipeline(
    "HiDreamImagePipeline",
    conditions=conditions,
    # The denoiser predicts the way from noise to data, and samplers go by the way back.
    habits=lambda denoiser: Habits(steps=50, guidance=5.0, prediction_scale=-1.0),
    encoders=4,
)
