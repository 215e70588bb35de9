"""The weights of a model that a run begins with."""

from dataclasses import replace

import jax
import jax.numpy as jnp

import jaxmodels.io
from jaxmodels.layers.spec import Params
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
    start = jaxmodels.io.load(name, "float32")
    trained = model.decoder if isinstance(model, ScannedDecoder) else model
    difference = _difference(start.decoder, trained)
    if difference:
        raise ValueError(f"recipe: start_from={name!r} is another model than the recipe's: {difference}")
    params = jax.tree.map(jnp.array, start.params)  # copies: the first step of training donates them
    return model.stack(params) if isinstance(model, ScannedDecoder) else params


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
