"""Histories as directories: what one process has settled, another goes on from.

DIR/history.json         the model, the tokens of each row and the slots
DIR/model.safetensors    the cache, one tensor for each array of it
"""

import functools
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.artefacts.errors import ArtefactError
from jaxmodels.artefacts.subjects import describe_model
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.safetensors_io import TensorFiles, TensorToWrite, open_tensors, write_tensors
from jaxmodels.decoding.histories import History
from jaxmodels.model import Model

HISTORY_FILE = "history.json"
FORMAT = 1


def save_history(history: History, model: Model, path: str | os.PathLike[str]) -> None:
    """Writes a history of a model as a directory, which is replaced as a whole.

    Raises:
        CheckpointError: the directory cannot be written.
    """
    values = {
        "format": FORMAT,
        "model": describe_model(model.config, model.params),
        "tokens": history.tokens,
        "capacity": history.capacity,
    }
    with replace_directory(path, also_replaced=(HISTORY_FILE,)) as directory:
        (directory / HISTORY_FILE).write_text(json.dumps(values) + "\n")
        write_tensors(directory, _tensors(history.cache))


def load_history(path: str | os.PathLike[str], model: Model) -> History:
    """The history of a directory, for the model that it is of, on the model's mesh where it has one.

    Raises:
        ArtefactError: there is no history, or one of another model; the message names both.
        CheckpointError: its tensors are missing or damaged.
    """
    directory = Path(path)
    values = _values(directory)
    there, here = values["model"], describe_model(model.config, model.params)
    if there != here:
        raise ArtefactError(
            f"{directory} is a history of {there['model']} (digest {there['digest']}), and the model here is "
            f"{here['model']} (digest {here['digest']})"
        )
    tokens, capacity = tuple(map(tuple, values["tokens"])), values["capacity"]
    dtype = str(model.config.dtype_of(model.params))
    like = jax.eval_shape(functools.partial(model.config.init_cache, len(tokens), capacity, jnp.dtype(dtype)))
    cache = _read(directory, open_tensors(directory), like)
    if model.placement is None:
        return History(cache=jax.device_put(cache), tokens=tokens, capacity=capacity)
    places = model.placement.cache(model.config, len(tokens), capacity, dtype)
    return History(cache=jax.device_put(cache, places), tokens=tokens, capacity=capacity)


def _values(directory: Path) -> dict[str, Any]:
    file = directory / HISTORY_FILE
    try:
        values = json.loads(file.read_text())
        if values["format"] != FORMAT or not {"model", "tokens", "capacity"} <= set(values):
            raise ArtefactError(f"{file} is of another form than format {FORMAT}")
    except ArtefactError:
        raise
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ArtefactError(f"{directory} holds no history: {HISTORY_FILE}: {error}") from error
    return dict(values)


def _named(cache: Any) -> Iterator[tuple[str, Any]]:
    for path, leaf in jax.tree_util.tree_flatten_with_path(cache)[0]:
        yield jax.tree_util.keystr(path, simple=True, separator="/"), leaf


def _tensors(cache: Any) -> Iterator[TensorToWrite]:
    for name, leaf in _named(cache):
        yield TensorToWrite(
            name=name, shape=leaf.shape, dtype=leaf.dtype, read=functools.partial(np.asarray, leaf)
        )


def _read(directory: Path, tensors: TensorFiles, like: Any) -> Any:
    leaves = []
    for name, wanted in _named(like):
        info = tensors.infos.get(name)
        if info is None or info.shape != wanted.shape or np.dtype(info.dtype) != wanted.dtype:
            found = "no tensor" if info is None else f"{info.dtype}{list(info.shape)}"
            raise ArtefactError(
                f"{directory}: {name!r} must be {wanted.dtype}{list(wanted.shape)}, and there is {found}"
            )
        leaves.append(np.array(tensors.read(name)))
    return jax.tree.unflatten(jax.tree.structure(like), leaves)
