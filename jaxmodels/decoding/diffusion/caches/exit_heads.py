"""Heads behind the blocks of a denoiser: what it would predict there, and how unsure of it it is
(DeeDiff)."""

from dataclasses import replace

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.layers.spec import Param, Params, ParamTree
from jaxmodels.models.denoisers.denoiser import Denoiser, Streams

EXITS = "exits"
# What denoisers finish with; a head has parameters of its own for those that its model has.
_FINISHING = ("final_norm", "out", "smoothing")


def with_exits(denoiser: Denoiser, params: Params) -> Params:
    """Parameters with a head behind each block but the last: a copy of what the model finishes with, and a
    linear map from a token to its uncertainty, zeros at first."""
    own = {name: params[name] for name in _FINISHING if name in params}
    width = jax.eval_shape(lambda params: params["out"]["w"], params).shape[-1]
    unsure = {"w": jnp.zeros(width, jnp.float32), "b": jnp.zeros((), jnp.float32)}
    heads = {str(i): own | {"uncertainty": unsure} for i in range(denoiser.num_blocks - 1)}
    return params | {EXITS: heads}


def exits_spec(denoiser: Denoiser) -> ParamTree:
    """The parameters of the heads alone, those of `with_exits`."""
    spec = denoiser.spec()
    own = {name: spec[name] for name in _FINISHING if name in spec}
    width = denoiser.projections.d_model
    unsure: ParamTree = {"w": Param((width,), (None,)), "b": Param((), ())}
    return {str(i): own | {"uncertainty": unsure} for i in range(denoiser.num_blocks - 1)}


def check_exits(step: Step) -> None:
    """Refuses parameters without heads.

    Raises:
        ValueError: `with_exits` did not make these parameters, or made them for another number of blocks.
    """
    heads, blocks = len(step.params.get(EXITS, {})), step.denoiser.num_blocks
    if heads != blocks - 1:
        raise ValueError(
            f"params[{EXITS!r}]: a model of {blocks} blocks needs {blocks - 1} heads to exit by, got {heads}"
        )


def exit_prediction(step: Step, streams: Streams, block: int) -> Float[Array, "B H W O"]:
    """What the head behind a block predicts."""
    head = step.params[EXITS][str(block)]
    finishing = step.params | {name: head[name] for name in _FINISHING if name in head}
    return replace(step, params=finishing).finish(streams)


def uncertainty(step: Step, streams: Streams, block: int) -> Float[Array, "B"]:
    """How unsure the head behind a block is, from 0 to 1: the mean over all tokens, that of the time
    included where it is one, of the sigmoid of a linear map."""
    head = step.params[EXITS][str(block)]["uncertainty"]
    parts = [streams.hidden] if streams.context is None else [streams.context, streams.hidden]
    tokens = jnp.concatenate(parts, axis=1).astype(jnp.float32)
    return jax.nn.sigmoid(tokens @ head["w"] + head["b"]).mean(axis=1)
