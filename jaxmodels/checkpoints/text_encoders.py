"""Encoders of texts from and to directories as `transformers` saves them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmodels.checkpoints.arguments import default_dtype
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.huggingface import (
    CONFIG_FILE,
    Progress,
    config_dict,
    exported,
    load_params,
    open_weights,
    read_config,
    read_params,
    read_values,
    save_params,
    stored_dtype,
    write_config,
)
from jaxmodels.checkpoints.placement import place
from jaxmodels.checkpoints.registered import place_registered
from jaxmodels.checkpoints.safetensors_io import DEFAULT_SHARD_BYTES, TensorReader, write_tensors
from jaxmodels.layers.spec import Params, check_params
from jaxmodels.models.families import FAMILIES
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.text_encoders.decoder_encoder import DecoderEncoder
from jaxmodels.models.text_encoders.families import (
    TEXT_ENCODERS,
    encoder_class,
    text_encoder_from_config,
    text_encoder_to_config,
)
from jaxmodels.models.text_encoders.text_encoder import TextEncoder

# Of which an older save may have left some behind.
_WEIGHTS = ("model*.safetensors", "model*.index.json")


def load_text_encoder(
    directory: str | Path,
    dtype: DTypeLike | None = jnp.float32,
    *,
    allow_pickle: bool = False,
    progress: Progress | None = None,
) -> tuple[TextEncoder | DecoderEncoder, Params]:
    """The encoder of a directory that `save_pretrained` wrote, and its parameters.

    It is a `TextEncoder` for classes of `TEXT_ENCODERS`, of which files of the whole of T5 hold one. Language
    models of the zoo's families are read as they are elsewhere, as a `DecoderEncoder`.

    Args:
        directory: with ``config.json`` and the weights.
        dtype: of the parameters; None for that which language models would have.
        allow_pickle: read PyTorch pickles where there are no safetensors. Only for sources that you trust.
        progress: called with the name and bytes of each tensor that has been read.

    Raises:
        CheckpointError: a file is missing or corrupt, the class is not known, or a tensor is missing, unknown
            or of another shape; the message names it.
    """
    directory = Path(directory)
    values = read_values(directory)
    _check_class(values, directory)
    tensors = open_weights(directory, allow_pickle=allow_pickle)
    held = default_dtype(stored_dtype(tensors)) if dtype is None else dtype
    if encoder_class(values) is None:
        return _load_decoder(directory, values, tensors, held, progress)
    config = read_text_encoder(directory)
    assert isinstance(config, TextEncoder)
    family = TEXT_ENCODERS[str(config.family)]
    placed = place_registered(family, config, tensors, values)
    return config, read_params(family.tensors(config), config.spec(), placed, held, progress=progress)


def read_text_encoder(directory: str | Path) -> TextEncoder | DecoderEncoder:
    """The encoder of a directory, from its configuration alone; see `load_text_encoder`."""
    directory = Path(directory)
    values = read_values(directory)
    _check_class(values, directory)
    if encoder_class(values) is None:
        return DecoderEncoder(
            decoder=read_config(directory)[0], architecture=_architecture(values, directory)
        )
    try:
        return text_encoder_from_config(values)
    except ConfigError as error:
        raise CheckpointError(f"{directory / CONFIG_FILE}: {error}") from error


def save_text_encoder(
    config: TextEncoder | DecoderEncoder,
    params: Params,
    directory: str | Path,
    *,
    max_shard_bytes: int | None = None,
    progress: Progress | None = None,
) -> None:
    """Writes an encoder as a directory that `load_text_encoder` and `transformers` read, in place of another.

    Raises:
        CheckpointError: the model has no such form, or the directory cannot be written.
        ValueError: `params` are not those of `config`.
    """
    check_params(config.spec(), params)
    if isinstance(config, DecoderEncoder):
        values = config_dict(config.decoder, {}) | {"architectures": [config.architecture]}
        with replace_directory(directory, _WEIGHTS) as temporary:
            write_config(values, temporary)
            save_params(config.decoder, params, temporary, max_shard_bytes=max_shard_bytes, progress=progress)
        return
    try:
        values = text_encoder_to_config(config)
    except ConfigError as error:
        raise CheckpointError(str(error)) from error
    tensors = TEXT_ENCODERS[str(config.family)].tensors(config).values()
    with replace_directory(directory, _WEIGHTS) as temporary:
        write_config(values | {"dtype": str(params["embed"]["weight"].dtype)}, temporary)
        write_tensors(temporary, exported(tensors, params, progress), max_shard_bytes or DEFAULT_SHARD_BYTES)


def _check_class(values: Mapping[str, Any], directory: Path) -> None:
    """Raises `CheckpointError` unless a configuration is of an encoder or of a language model of the zoo."""
    if encoder_class(values) is None and values.get("model_type") not in FAMILIES:
        known = f"{', '.join(sorted(TEXT_ENCODERS))}; and language models of the zoo"
        raise CheckpointError(
            f"{directory / CONFIG_FILE}: key 'architectures' is {values.get('architectures')!r} and "
            f"'model_type' is {values.get('model_type')!r}; text encoders that are read are: {known}"
        )


def _load_decoder(
    directory: Path,
    values: Mapping[str, Any],
    tensors: TensorReader,
    dtype: DTypeLike,
    progress: Progress | None,
) -> tuple[DecoderEncoder, Params]:
    config, _ = read_config(directory)
    placed = place(config, tensors, values)
    encoder = DecoderEncoder(decoder=placed.config, architecture=_architecture(values, directory))
    return encoder, load_params(placed.config, placed.tensors, dtype, progress=progress)


def _architecture(values: Mapping[str, Any], directory: Path) -> str:
    """The class of a language model."""
    names = values.get("architectures")
    if not isinstance(names, list) or not names or not isinstance(names[0], str):
        raise CheckpointError(
            f"{directory / CONFIG_FILE}: key 'architectures' must hold the name of the model's class, got "
            f"{names!r}"
        )
    return names[0]
