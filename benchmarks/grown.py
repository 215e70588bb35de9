"""A small trained model in a larger shape: the costs of the shape, the text of the small model.

What decoding methods gain depends on how often drafts are right, which needs a trained model, and on what a
call costs, which needs a large one. A grown model has both, without being trained: every call reads and
multiplies as many weights as a model of its shape does, while its logits are those of the small model. So it
says nothing about the quality of a model of that size, and acceptance measured with it is that of the small
model's text.
"""

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp

import jaxmodels as jm
from jaxmodels.layers.spec import Param, Params, init_params, unflatten, walk
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import config_to_hf

# About 100 million parameters with a vocabulary of 4,096, by the family of the small model.
SHAPES_100M: Mapping[str, dict[str, Any]] = {
    "qwen3": {
        "hidden_size": 768,
        "intermediate_size": 2048,
        "num_hidden_layers": 15,
        "num_attention_heads": 12,
        "num_key_value_heads": 6,
    },
    "mamba2": {
        "hidden_size": 768,
        "num_hidden_layers": 25,
        "num_heads": 24,
        "state_size": 128,
    },
}
# The same of bundled models that it does not fit: these have three heads to a key and value head, and 12
# layers, all of which are kept so that exits stand where they were.
SHAPES_BY_NAME: Mapping[str, dict[str, Any]] = {
    "tiny-qwen3-exits": {
        "hidden_size": 768,
        "intermediate_size": 2816,
        "num_hidden_layers": 12,
        "num_attention_heads": 12,
        "num_key_value_heads": 4,
    },
}
_EPS = ("rms_norm_eps", "layer_norm_epsilon")
# Projections back to the stream: where they are zero, a layer adds nothing.
_OUTPUTS = ("w_o", "w_down", "w_out")


def grown_100m(name: str) -> jm.Model:
    """A bundled model by name, in its shape of `SHAPES_BY_NAME` or that of its family in `SHAPES_100M`."""
    model = jm.load(name)
    return grown(model, SHAPES_BY_NAME.get(name, SHAPES_100M[str(model.decoder.family)]))


def grown(model: jm.Model, shape: Mapping[str, Any]) -> jm.Model:
    """A model of another shape with the function of `model`.

    The stream is padded with zeros, and the norms over it are corrected for their number: scales by the root
    of the ratio of widths, eps by the ratio. (Norms of single heads get that eps too, which changes logits by
    less than 1e-5.) Added features of feed-forwards, heads and states have zero weights. Added layers are
    drawn at random, but for output projections of zero; they stand evenly between the others, see `places`.

    Args:
        model: of a family in `SHAPES_100M`, with float32 parameters.
        shape: keys of its ``config.json`` and their new values, which must be at least the old. Heads and the
            key and value heads that they share must grow in the same ratio.
    """
    small = model.decoder
    values = config_to_hf(small)
    ratio = shape["hidden_size"] / values["hidden_size"]
    corrected = {key: values[key] / ratio for key in _EPS if key in values}
    # The number of layers is told by their kinds, too, where a file lists them.
    values.pop("layer_types", None)
    large = replace(jm.config_from_hf({**values, **shape, **corrected}), max_positions=small.max_positions)
    return replace(model, config=large, params=_grown_params(small, model.params, large))


def places(before: int, after: int) -> tuple[int, ...]:
    """Where the `before` layers of a small model stand among the `after` layers of a grown one."""
    return tuple(i * after // before for i in range(before))


def _grown_params(small: Decoder, params: Params, large: Decoder) -> Params:
    theirs = dict(walk(params))
    spec = large.spec()
    drawn = dict(walk(init_params(spec, jax.random.key(0))))
    at = {place: i for i, place in enumerate(places(len(small.blocks), len(large.blocks)))}
    made = {}
    for path, param in walk(spec):
        parts = path.split("/")
        if parts[0] == "blocks" and int(parts[1]) not in at:
            made[path] = jnp.zeros_like(drawn[path]) if parts[-1] in _OUTPUTS else drawn[path]
            continue
        if parts[0] == "blocks":
            parts[1] = str(at[int(parts[1])])
        made[path] = _padded(theirs["/".join(parts)], param, is_norm=parts[-1] == "scale")
    return unflatten(made, spec)


def _padded(array: jax.Array, param: Param, *, is_norm: bool) -> jax.Array:
    """An array with zeros behind it in every dimension; a norm's scale for as many zeros in what it reads."""
    padding = [(0, size - had) for size, had in zip(param.shape, array.shape, strict=True)]
    factor = math.sqrt(array.shape[0] / param.shape[0]) if is_norm else 1.0
    return jnp.pad(array * factor, padding)
