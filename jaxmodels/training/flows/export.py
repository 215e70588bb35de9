"""A trained flow as a directory that `jaxmodels.load` reads."""

from pathlib import Path

from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import floating_dtype
from jaxmodels.image_models.flow import FlowImageModel
from jaxmodels.io import save
from jaxmodels.training.flows.run import FlowRun
from jaxmodels.training.images.export import rounded


def export_flow(run: FlowRun, destination: str | Path, dtype: DTypeLike = "bfloat16") -> FlowImageModel:
    """Writes a run's model, and gives it; arguments and errors as `export_images`."""
    held = floating_dtype("dtype", dtype)
    model = FlowImageModel(flow=run.flow, params=rounded(run.flow.spec(), run.params, held))
    save(model, destination)
    return model
