"""Canvases of one size: a few tokens that are given, and the places of an image behind them as one block."""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Int

from jaxmodels.decoding import driver
from jaxmodels.decoding.finite import NotFinite
from jaxmodels.decoding.generation import Plan
from jaxmodels.decoding.masked.driver import MaskedDiffusion
from jaxmodels.decoding.strategy import Request
from jaxmodels.layers.spec import Params
from jaxmodels.models.language_model import LanguageModel

# No token ends an image, and nothing lies beyond it.
_NONE = -1


def plan_images(
    config: LanguageModel,
    params: Params,
    given: Int[np.ndarray, "B P"],
    places: int,
    seed: int,
    placement: driver.PlacesCaches | None = None,
) -> Plan:
    """One batch of images made ready, its cache where `placement` says. Sizes are exact, without buckets: an
    image has one size."""
    batch, prompt = given.shape
    key = jax.random.key(seed)
    request = Request(
        tokens=jnp.asarray(given, jnp.int32),
        lengths=jnp.full((batch,), prompt, jnp.int32),
        max_new=jnp.asarray(places, jnp.int32),
        stop_tokens=jnp.full((1,), _NONE, jnp.int32),
        pad_token=jnp.asarray(_NONE, jnp.int32),
        keys=jax.vmap(lambda row: jax.random.fold_in(key, row))(jnp.arange(batch)),
    )
    capacity, dtype = prompt + places, str(config.dtype_of(params))
    cache = driver.allocate(config=config, batch=batch, capacity=capacity, dtype=dtype, placement=placement)
    return Plan(request=request, cache=cache, max_new=places, new_slots=places, capacity=capacity)


def watch(
    config: LanguageModel, params: Params, strategy: MaskedDiffusion, plan: Plan
) -> Iterator[tuple[Int[np.ndarray, "B N"], Bool[np.ndarray, "B N"]]]:
    """The canvas before the first step and behind each of them: its tokens, and which are unknown.

    Raises:
        NotFinite: the scores of a step are NaN or infinite.
    """
    carry: Any = driver.start(
        params, plan.request, plan.cache, strategy, config=config, max_new=plan.new_slots
    )
    one = jnp.ones((), jnp.int32)
    while True:
        if bool(carry.output.stuck.any()):
            raise NotFinite(
                f"scores of codes are not finite at call {int(carry.output.steps)} of the model: look for "
                "parameters that are not"
            )
        yield np.asarray(carry.canvas.tokens), np.asarray(carry.canvas.unknown)
        if bool(carry.output.done.all()):
            return
        carry = driver.advance(params, plan.request, carry, strategy, one, config=config)
