"""Directories of image models, read and written: what `jaxmodels.load` and `jaxmodels.save` do for them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodels.checkpoints.arguments import default_dtype
from jaxmodels.checkpoints.components import Reading, Writing
from jaxmodels.checkpoints.consistent import read_consistently
from jaxmodels.checkpoints.errors import told_of
from jaxmodels.checkpoints.huggingface import Progress
from jaxmodels.checkpoints.manifest import Verification, open_verification
from jaxmodels.checkpoints.pipelines import outline_pipeline, read_pipeline, write_pipeline
from jaxmodels.holding import Holding
from jaxmodels.image_models.images import ImageModel
from jaxmodels.image_models.pipelines import PIPELINES
from jaxmodels.layers.quantized.quantization import refuse_quantized
from jaxmodels.memory import check_fits


def load_images(
    directory: Path,
    dtype: np.dtype | None,
    progress: Progress | None,
    *,
    allow_pickle: bool,
    verify: bool,
    load: Callable[[Path], Any],
    holding: Holding,
) -> ImageModel:
    """An image model: its components, each as it is read by itself; `load` reads the language models in it.
    What draws is held as `holding` says.

    Raises:
        CheckpointError: as `jaxmodels.load`.
    """
    reading = Reading(dtype=dtype, progress=progress, allow_pickle=allow_pickle, load=load, holding=holding)

    def read_all() -> ImageModel:
        verification = open_verification(directory) if verify else Verification(())
        verification.check_small()
        _check_fits(directory, dtype, holding)
        with verification.checking_large():
            model: ImageModel = read_pipeline(PIPELINES, directory, reading)
        placement = holding.placement
        return model if placement is None else model.on_mesh(placement.mesh, placement.rules)

    with told_of(directory):
        return read_consistently(directory, read_all)


def save_images(
    model: ImageModel,
    path: str | Path,
    max_shard_bytes: int | None,
    progress: Progress | None,
    *,
    save: Callable[[Any, Path], None],
) -> None:
    """Writes an image model; `save` writes the language models in it.

    Raises:
        ValueError: its weights are held in few bits.
    """
    if model.pipeline in PIPELINES:
        pipeline = PIPELINES[model.pipeline]
        for name, part in pipeline.take_apart(model).components.items():
            if name in pipeline.components and pipeline.components[name].draws:
                refuse_quantized(part.params, "save")
    writing = Writing(max_shard_bytes=max_shard_bytes, progress=progress, save=save)
    write_pipeline(PIPELINES, model, path, writing)


def _check_fits(directory: Path, wanted: np.dtype | None, holding: Holding) -> None:
    """Of a pipeline whose components choose their dtypes, the least that they choose counts."""
    model, parts = outline_pipeline(PIPELINES, directory)
    dtype = wanted or default_dtype("bfloat16")
    configs = {name: getattr(part, "config", None) for name, part in parts.components.items()}
    kinds = PIPELINES[model.pipeline].components
    sizes = {
        name: (holding if kinds[name].draws else Holding()).weight_bytes(config, dtype)
        for name, config in configs.items()
        if config is not None
    }
    check_fits(
        f"the {jnp.dtype(dtype).name} parameters of a {model.pipeline} ({', '.join(sizes)})",
        sum(sizes.values()),
    )
