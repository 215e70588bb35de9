"""A trained next-scale model as a directory that `jaxmodels.load` reads."""

from pathlib import Path

from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import floating_dtype
from jaxmodels.image_models.next_scale import NextScaleImageModel
from jaxmodels.io import save
from jaxmodels.training.images.export import rounded
from jaxmodels.training.next_scale.run import NextScaleRun


def export_next_scale(
    run: NextScaleRun, destination: str | Path, dtype: DTypeLike = "bfloat16"
) -> NextScaleImageModel:
    """Writes both parts of a run, and gives the model written; arguments and errors as `export_images`."""
    held = floating_dtype("dtype", dtype)
    model = NextScaleImageModel(
        model=run.var,
        params=rounded(run.var.spec(), run.var_params, held),
        autoencoder=run.autoencoder,
        autoencoder_params=rounded(run.autoencoder.spec(), run.autoencoder_params, held),
    )
    save(model, destination)
    return model
