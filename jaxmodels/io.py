"""`load`, `save` and `init`: models from and to checkpoint directories."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from jaxmodels.checkpoints import huggingface, orbax
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.consistent import read_consistently
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.generation_config import GenerationDefaults
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.checkpoints.safetensors_io import TensorReader
from jaxmodels.checkpoints.tokenizer import Tokenizer
from jaxmodels.layers.spec import Params, init_params, walk
from jaxmodels.model import Model
from jaxmodels.models.decoder import Decoder

Format = Literal["hf", "orbax"]


def load(
    name_or_path: str | Path,
    dtype: DTypeLike | None = None,
    *,
    revision: str | None = None,
    allow_pickle: bool = False,
    progress: huggingface.Progress | None = None,
) -> Model:
    """Reads a checkpoint: a directory in Hugging Face's or our Orbax form, a bundled name, or a hub id.

    Args:
        name_or_path: ``"./dir"``, ``"tiny-mamba2"`` or ``"org/name"``.
        dtype: of the parameters. By default float32 on CPU, where bfloat16 is slower, and the stored dtype
            elsewhere.
        revision: branch, tag or commit of a hub id.
        allow_pickle: read PyTorch pickles where there are no safetensors. Only for sources that you trust;
            needs the extra ``jaxmodels[torch]``.
        progress: called with the name and bytes of each parameter that has been read; Orbax reads all at
            once.

    Raises:
        CheckpointError: anything missing, corrupt or not understood; the message names it.
    """
    directory = resolve(name_or_path, revision, allow_pickle=allow_pickle)

    def open_all() -> tuple[Model, TensorReader | None]:
        config, metadata = huggingface.read_config(directory)
        tensors, params = None, {}
        if orbax.is_orbax(directory):
            params = orbax.load_params(config, directory, dtype or _default_dtype(metadata.get("dtype")))
        else:
            tensors = huggingface.open_weights(directory, allow_pickle=allow_pickle)
        model = Model(
            config=config,
            params=params,
            tokenizer=Tokenizer.load(directory),
            generation=GenerationDefaults.load(directory).within(config.vocab_size, directory),
            metadata=metadata,
        )
        return model, tensors

    model, tensors = read_consistently(directory, open_all)
    if tensors is None:
        _report(model.params, progress)
        return model
    dtype = dtype or _default_dtype(huggingface.stored_dtype(tensors))
    params = huggingface.load_params(model.config, tensors, dtype, progress=progress)
    return replace(model, params=params)


def save(
    model: Model,
    path: str | Path,
    format: Format = "hf",
    *,
    max_shard_bytes: int | None = None,
    progress: huggingface.Progress | None = None,
) -> None:
    """Writes a model as a checkpoint directory that `load` reads, and for "hf" `transformers` too.

    The directory is replaced as a whole once everything is written: a save that fails or is killed leaves
    the previous checkpoint in place.

    Args:
        model: what to write.
        path: the directory.
        format: "hf" or "orbax".
        max_shard_bytes: size above which "hf" begins another file, 2 GB by default.
        progress: called with the name and bytes of each parameter; Orbax writes all at once.

    Raises:
        CheckpointError: the model has no Hugging Face form, or the directory cannot be written.
        ValueError: an unknown `format`, or `max_shard_bytes` for one that it does not apply to.
    """
    if format not in ("hf", "orbax"):
        raise ValueError(f"format must be 'hf' or 'orbax', got {format!r}")
    if format == "orbax" and max_shard_bytes is not None:
        raise ValueError(f"max_shard_bytes={max_shard_bytes}: Orbax chooses its own files; leave it out")
    dtype = str(model.params["embed"]["weight"].dtype)
    values = huggingface.config_dict(model.config, {**model.metadata, "dtype": dtype})
    with replace_directory(path) as directory:
        huggingface.write_config(values, directory)
        model.generation.save(directory)
        if model.tokenizer is not None:
            model.tokenizer.save(directory)
        if format == "hf":
            huggingface.save_params(
                model.config, model.params, directory, max_shard_bytes=max_shard_bytes, progress=progress
            )
        else:
            orbax.save_params(model.params, directory)
            _report(model.params, progress)


def init(config: Decoder, seed: int = 0, dtype: DTypeLike = jnp.float32) -> Model:
    """A model with random weights."""
    return Model(config=config, params=init_params(config.spec(), jax.random.key(seed), dtype))


def _report(params: Params, progress: huggingface.Progress | None) -> None:
    if progress is not None:
        for name, leaf in walk(params):
            progress(name, leaf.nbytes)


def _default_dtype(stored: str | None) -> str:
    if jax.default_backend() == "cpu":
        return "float32"
    if stored is None or not jnp.issubdtype(jnp.dtype(stored), jnp.floating):
        return "bfloat16"
    return stored


__all__ = ["CheckpointError", "Format", "init", "load", "save"]
