"""A trained denoiser as a directory that `jaxmodels.load` reads."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import floating_dtype
from jaxmodels.checkpoints.components import Part
from jaxmodels.checkpoints.pipelines import Parts
from jaxmodels.checkpoints.schedulers import read_scheduler
from jaxmodels.image_models.diffusion import DiffusionModel
from jaxmodels.image_models.pipelines import PIPELINES
from jaxmodels.io import save
from jaxmodels.training.denoisers.run import DenoiserRun
from jaxmodels.training.images.export import rounded

# The pipeline of a denoiser, by its family.
_PIPELINES: Mapping[str, str] = MappingProxyType(
    {
        "DDT": "DDTPipeline",
        "DiT": "DiTPipeline",
        "DiTTransformer2DModel": "DiTPipeline",
        "FlowMapDiT": "FlowMapPipeline",
        "SiT": "DiTPipeline",
    }
)


def export_denoiser(
    run: DenoiserRun, destination: str | Path, dtype: DTypeLike = "bfloat16"
) -> DiffusionModel:
    """Writes a run's model with the sampler of its objective, and gives it; arguments and errors as
    `export_images`."""
    denoiser, recipe = run.denoiser, run.recipe
    params = rounded(denoiser.spec(), run.params, floating_dtype("dtype", dtype))
    parts: Mapping[str, Any] = {
        "transformer": Part(denoiser, params),
        "vae": None,
        "scheduler": read_scheduler(recipe.objective.scheduler()),
    }
    made: DiffusionModel = PIPELINES[_PIPELINES[denoiser.family]].build(Parts(components=parts))
    # A recipe's scale guides all channels at all times, whatever is done with published models of the class.
    habits = replace(made.habits, guidance=recipe.guidance, guided_channels=None, guided_times=None)
    model = replace(made, habits=habits, canvas=recipe.image_size)
    save(model, destination)
    return model
