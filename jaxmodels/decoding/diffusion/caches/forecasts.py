"""Steps that are computed whole, or whose parts are forecast from the outputs of computed steps."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.outputs import (
    Giving,
    Outputs,
    block_parts,
    no_outputs,
    predict,
    predict_recording,
)
from jaxmodels.decoding.diffusion.caches.schedules import since_computed

# By order: the last outputs, and how they changed per step, once, twice and so on (divided differences). The
# names of the outputs are those of the parts that are forecast.
Factors = tuple[Outputs, ...]


@struct.dataclass
class Forecast:
    """A row of a cache that forecasts.

    Attributes:
        fresh: bool[], whether the step is computed.
        gap: f32[], of a computed step: how many steps ago the one before it was.
        known: bool[order + 1], of a computed step: which factors the steps so far suffice for.
        weights: f32[order + 1], of a forecast one: what the factors are multiplied by, k^j / j! for k steps.
    """

    fresh: Any
    gap: Any
    known: Any
    weights: Any


def forecasts(fresh: np.ndarray, order: int) -> Forecast:
    """The rows of a run of which these steps are computed, [N, ...] each."""
    since = since_computed(fresh)
    gap = 1 + np.concatenate([[0], since[:-1]])
    orders = np.arange(order + 1)
    factorials = [math.factorial(j) for j in orders]
    return Forecast(
        fresh=fresh,
        gap=gap.astype(np.float32),
        known=np.cumsum(fresh)[:, None] > orders,
        weights=(since[:, None].astype(float) ** orders / factorials).astype(np.float32),
    )


def no_factors(step: Step, names: tuple[str, ...], order: int) -> Factors:
    """Zeros for the parts of these names; the outputs have their own dtype, the differences float32."""
    outputs = no_outputs(step, names)
    return (outputs, *[jax.tree.map(lambda x: x.astype(jnp.float32), outputs) for _ in range(order)])


class StepsByForecast:
    """What caches inherit whose rows are a `Forecast`, and whose state is `no_factors` in the beginning."""

    def denoise(
        self, step: Step, row: Forecast, state: Factors
    ) -> tuple[Float[Array, "B H W C"], Factors, Float[Array, ""]]:
        """See `StepCache.denoise`."""

        def compute(factors: Factors) -> tuple[Array, Factors]:
            prediction, outputs = predict_recording(step, tuple(factors[0]))
            return prediction, _updated(factors, outputs, row)

        def forecast(factors: Factors) -> tuple[Array, Factors]:
            return predict(step, Giving(_forecast(factors, row))), factors

        prediction, state = lax.cond(row.fresh, compute, forecast, state)
        parts, blocks = len(block_parts(step.denoiser)), step.denoiser.num_blocks
        forecast_blocks = blocks * (1 - len(state[0]) / parts)
        return prediction, state, jnp.where(row.fresh, float(blocks), forecast_blocks)


def _updated(factors: Factors, outputs: Outputs, row: Forecast) -> Factors:
    """The factors behind a computed step."""
    made: list[Outputs] = [outputs]
    for order, before in enumerate(factors[:-1], start=1):

        def difference(now: Array, then: Array, known: Array = row.known[order]) -> Array:
            change = now.astype(jnp.float32) - then.astype(jnp.float32)
            return jnp.where(known, change / row.gap, 0.0)

        made.append(jax.tree.map(difference, made[-1], before))
    return tuple(made)


def _forecast(factors: Factors, row: Forecast) -> Outputs:
    """The outputs, from the factors of the last computed step."""
    if len(factors) == 1:
        return factors[0]

    def series(*terms: Array) -> Array:
        stacked = jnp.stack([term.astype(jnp.float32) for term in terms])
        return jnp.tensordot(row.weights, stacked, axes=1).astype(terms[0].dtype)

    return jax.tree.map(series, *factors)
