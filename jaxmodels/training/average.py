"""The moving average of parameters over training steps, kept beside the state of an optimizer."""

from typing import NamedTuple

import jax.numpy as jnp
import optax
from jaxtyping import Array, Int

from jaxmodels.layers.spec import Params


class AveragedState(NamedTuple):
    """The state of an optimizer under `averaged`.

    Attributes:
        steps: i32[], updates so far.
        average: the average of the parameters behind each of them.
        inner: the optimizer's own state.
    """

    steps: Int[Array, ""]
    average: Params
    inner: optax.OptState


def averaged(optimizer: optax.GradientTransformation, decay: float) -> optax.GradientTransformation:
    """`optimizer`, which also keeps ``average = d * average + (1 - d) * params`` of what it makes.

    d is `decay`, and ``(1 + n) / (10 + n)`` at update n while that is less, so that the parameters drawn at
    the start are soon forgotten.
    """

    def init(params: Params) -> AveragedState:
        return AveragedState(jnp.zeros((), jnp.int32), params, optimizer.init(params))

    def update(
        updates: Params, state: AveragedState, params: Params | None = None
    ) -> tuple[Params, AveragedState]:
        assert params is not None
        updates, inner = optimizer.update(updates, state.inner, params)
        kept = jnp.minimum(decay, (1 + state.steps) / (10 + state.steps))
        average = optax.incremental_update(optax.apply_updates(params, updates), state.average, 1 - kept)
        return updates, AveragedState(state.steps + 1, average, inner)

    return optax.GradientTransformation(init, update)  # type: ignore[arg-type]
