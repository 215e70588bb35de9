"""The weights of a model that a run begins with."""

from dataclasses import replace

import jax
import jax.numpy as jnp

import jaxmodels.io
from jaxmodels.layers.spec import Param, Params, init_params, unflatten, walk
from jaxmodels.model import Model
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import config_to_hf
from jaxmodels.models.scanned import ScannedDecoder
from jaxmodels.training.trainable import Trainable


def load_start(name: str, model: Trainable) -> Params:
    """The f32 parameters of the model that a recipe's `start_from` names, as `model` takes them.

    Args:
        name: a model directory or a bundled name.
        model: what is to be trained.

    Raises:
        CheckpointError: the model cannot be read.
        ValueError: it is not the model that the recipe describes; the message names what differs.
    """
    start = _load(name)
    trained = model.decoder if isinstance(model, ScannedDecoder) else model
    difference = _difference(start.decoder, trained)
    if difference:
        raise ValueError(f"recipe: start_from={name!r} is another model than the recipe's: {difference}")
    params = jax.tree.map(jnp.array, start.params)  # copies: the first step of training donates them
    return model.stack(params) if isinstance(model, ScannedDecoder) else params


def load_adapted(name: str, model: Trainable, seed: int) -> Params:
    """f32 parameters for `model`, as many of them as possible from the model that `adapt_from` names.

    A parameter of the same path and shape is taken over, as the blocks of an autoregressive model are by a
    masked one of the same sizes (https://arxiv.org/abs/2410.17891). Of a larger vocabulary, the rows that the
    other model lacks are the mean of its own. What it has nothing for is drawn.

    Args:
        name: a model directory or a bundled name.
        model: what is to be trained.
        seed: of what is drawn.

    Raises:
        CheckpointError: the model cannot be read.
        ValueError: `model` is not of the zoo, or the other one has nothing for it.
    """
    trained = model.decoder if isinstance(model, ScannedDecoder) else model
    if not isinstance(trained, Decoder):
        raise ValueError(f"recipe: adapt_from={name!r} cannot begin a {type(trained).__name__}")
    theirs = dict(walk(_load(name).params))
    spec = trained.spec()
    ours = dict(walk(init_params(spec, jax.random.key(seed))))
    tried = {path: _fitted(theirs.get(path), param) for path, param in walk(spec)}
    fitting = {path: found for path, found in tried.items() if found is not None}
    if not fitting:
        raise ValueError(f"recipe: adapt_from={name!r} has no parameter of the paths and shapes of the model")
    params = unflatten({**ours, **fitting}, spec)
    return model.stack(params) if isinstance(model, ScannedDecoder) else params


def _load(name: str) -> Model:
    return jaxmodels.io.as_language_model(jaxmodels.io.load(name, "float32"), name)


def _fitted(theirs: jax.Array | None, param: Param) -> jax.Array | None:
    """A copy of their array, with rows added where the vocabulary is larger; None where it does not fit."""
    if theirs is None or theirs.shape[1:] != param.shape[1:]:
        return None
    missing = param.shape[0] - theirs.shape[0]
    if missing and (missing < 0 or param.axes[0] != "vocab"):
        return None
    return jnp.concatenate([theirs, jnp.repeat(theirs.mean(0, keepdims=True), missing, axis=0)])


def _difference(start: Decoder, trained: Trainable) -> str:
    """What keeps the weights of one from being those of the other; nothing if they are the same model."""
    if not isinstance(trained, Decoder):
        return f"a {type(start).__name__} cannot begin a {type(trained).__name__}"
    # the length of sequences is advisory: a run may train on longer ones than the model was made for
    start = replace(start, max_positions=trained.max_positions)
    if start == trained:
        return ""
    theirs, ours = config_to_hf(start), config_to_hf(trained)
    keys = [key for key in theirs | ours if theirs.get(key) != ours.get(key)]
    return ", ".join(
        f"{key} is {theirs.get(key)!r} there and {ours.get(key)!r} in the recipe" for key in keys
    )
