"""A trained image model as a directory that `jaxmodels.load` reads."""

from pathlib import Path

from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import floating_dtype
from jaxmodels.checkpoints.ranges import check_range
from jaxmodels.image_models.masked import MaskedImageModel
from jaxmodels.io import save
from jaxmodels.layers.spec import Params, ParamTree, param_dtype, unflatten, walk
from jaxmodels.model import Model
from jaxmodels.training.images.run import ImageRun


def export_images(run: ImageRun, destination: str | Path, dtype: DTypeLike = "bfloat16") -> MaskedImageModel:
    """Writes both parts of a run, and gives the model written.

    Args:
        run: what `train_images` gave.
        destination: the directory, replaced as a whole.
        dtype: of the parameters written.

    Raises:
        CheckpointError: `destination` cannot be written, or numbers are beyond the range of `dtype`.
        ValueError: `dtype` is not one that models compute with.
    """
    held = floating_dtype("dtype", dtype)
    model = MaskedImageModel(
        model=Model(
            config=run.transformer,
            params=rounded(run.transformer.spec(), run.transformer_params, held),
        ),
        autoencoder=run.autoencoder,
        autoencoder_params=rounded(run.autoencoder.spec(), run.autoencoder_params, held),
    )
    save(model, destination)
    return model


def rounded(spec: ParamTree, params: Params, dtype: DTypeLike) -> Params:
    """The parameters in `dtype`, but for those that have one of their own.

    Raises:
        CheckpointError: numbers are beyond its range; the message names the parameter.
    """
    arrays = dict(walk(params))
    for path, param in walk(spec):
        check_range(path, arrays[path], param_dtype(param, dtype))
    return unflatten({path: arrays[path].astype(param_dtype(p, dtype)) for path, p in walk(spec)}, spec)
