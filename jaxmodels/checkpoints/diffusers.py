"""Denoisers from and to directories as `diffusers` saves single models: a configuration and safetensors."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.huggingface import CONFIG_FILE, exported, read_params, write_config
from jaxmodels.checkpoints.placement import TensorView, check_tensor
from jaxmodels.checkpoints.safetensors_io import (
    TensorReader,
    missing_tensor_message,
    open_tensors,
    write_tensors,
)
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.models.denoisers.families import DENOISERS, denoiser_from_config, denoiser_to_config
from jaxmodels.models.family import Family
from jaxmodels.models.hf_config import ConfigError

STEM = "diffusion_pytorch_model"


def load_denoiser(directory: str | Path, dtype: DTypeLike = jnp.float32) -> tuple[Any, Params]:
    """The denoiser of a directory that `save_pretrained` wrote, and its parameters in `dtype`.

    Raises:
        CheckpointError: a file is missing or corrupt, the class is not known, or a tensor is missing, unknown
            or of another shape; the message names it.
    """
    directory = Path(directory)
    file = directory / CONFIG_FILE
    values = read_json_object(file)
    try:
        config = denoiser_from_config(values)
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error
    tensors = open_tensors(directory, f"{STEM}.safetensors", f"{STEM}.safetensors.index.json")
    family = DENOISERS[str(config.family)]
    expected = family.tensors(config)
    return config, read_params(expected, config.spec(), _placed(family, config, tensors, values), dtype)


def save_denoiser(config: Denoiser, params: Params, directory: str | Path) -> None:
    """Writes a denoiser as a directory that `load_denoiser` and `diffusers` read, in place of any other.

    Raises:
        CheckpointError: the model has no such form, or the directory cannot be written.
        ValueError: `params` are not those of `config`.
    """
    check_params(config.spec(), params)
    try:
        values = denoiser_to_config(config)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    tensors = DENOISERS[str(config.family)].tensors(config).values()
    with replace_directory(directory, (f"{STEM}*.safetensors", f"{STEM}*.index.json")) as temporary:
        write_config(values, temporary)
        write_tensors(temporary, exported(tensors, params), stem=STEM)


def _placed(
    family: Family[Any], config: Denoiser, tensors: TensorReader, values: dict[str, Any]
) -> TensorView:
    """The tensors that fill parameters; raises `CheckpointError` unless all are there and nothing else is."""
    expected = family.tensors(config)
    for name, tensor in expected.items():
        if name not in tensors.infos:
            raise CheckpointError(missing_tensor_message(name, tensors.infos))
        check_tensor(tensors.infos[name], tensor, values)
    for name, info in tensors.infos.items():
        if name not in expected and not family.is_unused(name):
            raise CheckpointError(
                f"{info.file}: tensor {name!r} of shape {list(info.shape)} is not part of the "
                f"{config.family} that the configuration describes; refusing to ignore it"
            )
    return TensorView(tensors=tensors, names={name: name for name in tensors.infos if name in expected})
