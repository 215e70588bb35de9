"""Images of classes: DiT (https://arxiv.org/abs/2212.09748) and SiT, DDT (https://arxiv.org/abs/2504.05741).

`DiTPipeline` of `diffusers` takes class 1000 for none whatever the model. Here it is the row behind the last
class, which is the same for models of a thousand. `DDTPipeline` is a name of this project: the published
files are a transformer alone. So is `FlowMapPipeline`, of a DiT that goes by two times, draws in few steps
and was trained to be guided.
"""

from collections.abc import Mapping
from typing import Any

from jaxmodels.image_models.conditions import Classes
from jaxmodels.image_models.diffusion import Habits
from jaxmodels.image_models.pipelines.diffusion import diffusion_pipeline

OFFICIALLY_GUIDED = 3


def conditions(denoiser: Any, texts: Mapping[str, Any]) -> Classes:
    return Classes(num_classes=denoiser.conditioner.num_classes)


def habits(denoiser: Any) -> Habits:
    """Guides as the code of the denoiser's family samples: DiT's and SiT's `forward_with_cfg` has the first
    three channels, the pipeline of `diffusers` all of them."""
    official = denoiser.family in ("DiT", "SiT") and denoiser.projections.in_channels > OFFICIALLY_GUIDED
    return Habits(steps=50, guidance=4.0, guided_channels=OFFICIALLY_GUIDED if official else None)


def ddt_habits(denoiser: Any) -> Habits:
    """As DDT's published configurations for sampling: all channels, at times between 0.3 and 1."""
    return Habits(steps=50, guidance=4.0, guided_times=(0.3, 1.0))


def few_steps(denoiser: Any) -> Habits:
    return Habits(steps=4)


DIT = diffusion_pipeline("DiTPipeline", conditions=conditions, habits=habits)
# Published for images of 256 pixels, whose latents are an eighth as high and wide.
DDT = diffusion_pipeline("DDTPipeline", conditions=conditions, habits=ddt_habits)
FLOW_MAP = diffusion_pipeline("FlowMapPipeline", conditions=conditions, habits=few_steps)
