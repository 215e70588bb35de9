"""Models of a registry of classes from and to directories with a configuration and safetensors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import default_dtype
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.huggingface import (
    CONFIG_FILE,
    Held,
    Progress,
    exported,
    read_params,
    stored_dtype,
    write_config,
)
from jaxmodels.checkpoints.placement import TensorView, check_tensor
from jaxmodels.checkpoints.safetensors_io import (
    DEFAULT_SHARD_BYTES,
    TensorReader,
    missing_tensor_message,
    open_tensors,
    write_tensors,
)
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.class_registry import ClassRegistry
from jaxmodels.models.family import Table
from jaxmodels.models.hf_config import ConfigError

STEM = "diffusion_pytorch_model"


class Holds(Protocol):
    """Says how the parameters of a model are held once they are read."""

    def shardings(self, config: Any) -> Params | None:
        """Where each is read to, None for the default device."""

    def made_of(self, config: Any, dtype: DTypeLike) -> Held | None:
        """What makes of some what is held of them, None for arrays."""


def load_registered(
    registry: ClassRegistry[Any],
    directory: str | Path,
    dtype: DTypeLike | None,
    progress: Progress | None = None,
    holding: Holds | None = None,
) -> tuple[Any, Params]:
    """The model of a class that `registry` knows, and its parameters; as `load_denoiser`.

    Args:
        registry: of the classes.
        directory: as `save_pretrained` writes it.
        dtype: of the parameters; None for `default_dtype`.
        progress: called with the name and bytes of each tensor that has been read.
        holding: how they are held; None for arrays on the default device.
    """
    directory = Path(directory)
    config, values = read_registered(registry, directory), read_json_object(directory / CONFIG_FILE)
    tensors = open_tensors(directory, f"{STEM}.safetensors", f"{STEM}.safetensors.index.json")
    family = registry[config.family]
    expected, placed = family.tensors(config), place_registered(family, config, tensors, values)
    held = default_dtype(stored_dtype(tensors)) if dtype is None else dtype
    places = None if holding is None else holding.shardings(config)
    made = None if holding is None else holding.made_of(config, held)
    params = read_params(
        expected, config.spec(), placed, held, progress=progress, shardings=places, held=made
    )
    return config, params


def read_registered(registry: ClassRegistry[Any], directory: str | Path) -> Any:
    """The model of a class that `registry` knows, from its configuration alone.

    Raises:
        CheckpointError: see `load_denoiser`.
    """
    file = Path(directory) / CONFIG_FILE
    try:
        return registry.read(read_json_object(file))
    except ConfigError as error:
        raise CheckpointError(f"{file}: {error}") from error


def save_registered(
    registry: ClassRegistry[Any],
    config: Any,
    params: Params,
    directory: str | Path,
    max_shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes a model of a class that `registry` knows; as `save_denoiser`.

    Args:
        registry: of the classes.
        config: the model.
        params: its parameters.
        directory: replaced as a whole.
        max_shard_bytes: size above which another file of parameters begins; None for the default.
        progress: called with the name and bytes of each tensor as it is written.
    """
    check_params(config.spec(), params)
    try:
        values = registry.write(config)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    tensors = registry[config.family].tensors(config).values()
    with replace_directory(directory, (f"{STEM}*.safetensors", f"{STEM}*.index.json")) as temporary:
        write_config(values, temporary)
        write_tensors(
            temporary, exported(tensors, params, progress), max_shard_bytes or DEFAULT_SHARD_BYTES, stem=STEM
        )


def place_registered(
    family: Table[Any], config: Any, tensors: TensorReader, values: Mapping[str, Any]
) -> TensorView:
    """The tensors that fill parameters; raises `CheckpointError` unless all are there and nothing else is."""
    expected = family.tensors(config)
    stored = {family.name_in_table(name): name for name in tensors.infos}
    for name, tensor in expected.items():
        if name not in stored:
            raise CheckpointError(missing_tensor_message(name, tensors.infos))
        check_tensor(tensors.infos[stored[name]], tensor, values)
    for name, their_name in stored.items():
        if name not in expected and not family.is_unused(name):
            info = tensors.infos[their_name]
            raise CheckpointError(
                f"{info.file}: tensor {their_name!r} of shape {list(info.shape)} is not part of the "
                f"{family.model_type} that the configuration describes; refusing to ignore it"
            )
    return TensorView(
        tensors=tensors, names={name: theirs for name, theirs in stored.items() if name in expected}
    )
