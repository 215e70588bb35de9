"""Models from and to directories as `diffusers` saves single ones: a configuration and safetensors."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmodels.checkpoints.registered import load_registered, save_registered
from jaxmodels.layers.spec import Params
from jaxmodels.models.autoencoders.autoencoder import Autoencoder
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.autoencoders.multi_scale import MultiScaleVQ
from jaxmodels.models.autoencoders.vq import VQModel
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.models.denoisers.families import DENOISERS
from jaxmodels.models.flows.families import FLOWS
from jaxmodels.models.flows.tarflow import TarFlow
from jaxmodels.models.next_scale.families import NEXT_SCALE_MODELS
from jaxmodels.models.next_scale.var import VAR
from jaxmodels.models.token_images.families import TOKEN_IMAGE_MODELS
from jaxmodels.models.token_images.mage import MAGE
from jaxmodels.models.token_images.mar import MAR
from jaxmodels.models.token_images.uvit import UVit2D


def load_denoiser(directory: str | Path, dtype: DTypeLike = jnp.float32) -> tuple[Any, Params]:
    """The denoiser of a directory that `save_pretrained` wrote, and its parameters in `dtype`.

    Raises:
        CheckpointError: a file is missing or corrupt, the class is not known, or a tensor is missing, unknown
            or of another shape; the message names it.
    """
    return load_registered(DENOISERS, directory, dtype)


def save_denoiser(config: Denoiser, params: Params, directory: str | Path) -> None:
    """Writes a denoiser as a directory that `load_denoiser` and `diffusers` read, in place of any other.

    Raises:
        CheckpointError: the model has no such form, or the directory cannot be written.
        ValueError: `params` are not those of `config`.
    """
    save_registered(DENOISERS, config, params, directory)


def load_autoencoder(directory: str | Path, dtype: DTypeLike = jnp.float32) -> tuple[Any, Params]:
    """The autoencoder of a directory that `save_pretrained` wrote, and its parameters; as `load_denoiser`."""
    return load_registered(AUTOENCODERS, directory, dtype)


def save_autoencoder(
    config: Autoencoder | VQModel | MultiScaleVQ, params: Params, directory: str | Path
) -> None:
    """Writes an autoencoder that `load_autoencoder` and `diffusers` read; as `save_denoiser`."""
    save_registered(AUTOENCODERS, config, params, directory)


def load_token_image_model(directory: str | Path, dtype: DTypeLike = jnp.float32) -> tuple[Any, Params]:
    """The model of codes that `save_pretrained` wrote, and its parameters; as `load_denoiser`."""
    return load_registered(TOKEN_IMAGE_MODELS, directory, dtype)


def save_token_image_model(config: UVit2D | MAGE | MAR, params: Params, directory: str | Path) -> None:
    """Writes a model of codes that `load_token_image_model` and `diffusers` read; as `save_denoiser`."""
    save_registered(TOKEN_IMAGE_MODELS, config, params, directory)


def load_next_scale_model(directory: str | Path, dtype: DTypeLike = jnp.float32) -> tuple[Any, Params]:
    """The next-scale model of a directory that `save_next_scale_model` wrote; as `load_denoiser`."""
    return load_registered(NEXT_SCALE_MODELS, directory, dtype)


def save_next_scale_model(config: VAR, params: Params, directory: str | Path) -> None:
    """Writes a next-scale model in its authors' names; as `save_denoiser`."""
    save_registered(NEXT_SCALE_MODELS, config, params, directory)


def load_flow(directory: str | Path, dtype: DTypeLike = jnp.float32) -> tuple[Any, Params]:
    """The flow of a directory that `save_flow` wrote; as `load_denoiser`."""
    return load_registered(FLOWS, directory, dtype)


def save_flow(config: TarFlow, params: Params, directory: str | Path) -> None:
    """Writes a flow in its authors' names; as `save_denoiser`."""
    save_registered(FLOWS, config, params, directory)
