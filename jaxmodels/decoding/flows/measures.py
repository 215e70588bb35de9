"""How hard the steps of a flow are to run backwards by passes, and a `GSJacobi` that fits them."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.flows.gs_jacobi import GSJacobi, Guess
from jaxmodels.decoding.programs import bounded_jit
from jaxmodels.layers.spec import Params
from jaxmodels.models.flows.flow_block import FlowBlock, behind
from jaxmodels.models.flows.tarflow import TarFlow


@dataclass(frozen=True, kw_only=True)
class StepMeasures:
    """Of each step of a flow, the first next to the images.

    Attributes:
        convergence: the Convergence Ranking Metric: large where many passes are needed.
        from_noise, from_zero: the Initial Guessing Metric: how far one pass leads from the tokens if they are
            first taken for the noise, or for 0.
    """

    convergence: tuple[float, ...]
    from_noise: tuple[float, ...]
    from_zero: tuple[float, ...]


def measure_steps(
    config: TarFlow,
    params: Params,
    images: Float[np.ndarray, "B H W C"],
    classes: Int[np.ndarray, "B"] | None = None,
) -> StepMeasures:
    """The measures of Liu et al. 2025 (https://arxiv.org/abs/2505.12849), of a few training images.

    Convergence is ``|mean(x exp(-log_scale))| |W_s| + |W_u|``, with the two halves of the last projection;
    a guess is measured by ``|mean(x_1 - x)|``. Norms are spectral, means over the images.
    """
    found = np.asarray(_measured(params, images, classes, config=config), np.float64)
    convergence, from_noise, from_zero = (tuple(column.tolist()) for column in found.T)
    return StepMeasures(convergence=convergence, from_noise=from_noise, from_zero=from_zero)


def planned(measures: StepMeasures, segments: int, *, dominant: float = 0.3) -> GSJacobi:
    """Steps that have more than the share `dominant` of all convergence in `segments`, others at once, each
    from the better guess."""
    total = sum(measures.convergence)
    guesses = zip(measures.from_noise, measures.from_zero, strict=True)
    return GSJacobi(
        segments=tuple(segments if each > dominant * total else 1 for each in measures.convergence),
        guesses=tuple(Guess.NOISE if noise <= zero else Guess.ZERO for noise, zero in guesses),
    )


@bounded_jit(static_argnames=("config",))
def _measured(
    params: Params, images: Array, classes: Array | None, *, config: TarFlow
) -> Float[Array, "K 3"]:
    x, rows = config.tokens(images).astype(jnp.float32), []
    for i, step in enumerate(config.steps):
        own = params["steps"][str(i)]
        rows.append(_of_step(step, own, step.ordered(x), classes))
        x, _ = step.forward(own, x, classes)
    return jnp.stack(rows)


def _of_step(
    step: FlowBlock, params: Params, x: Float[Array, "B S C"], classes: Array | None
) -> Float[Array, "3"]:
    def read(tokens: Array) -> tuple[Array, Array]:
        hidden = step.trunk.forward(params["blocks"], step.embed(params, tokens, 0, classes))
        log_scale, shift = step.steps(params, hidden)
        return behind(log_scale), behind(shift)

    def missed(guess: Array) -> Array:
        log_scale, shift = read(guess)
        return _spectral((z * jnp.exp(log_scale) + shift - x).mean(0))

    log_scale, shift = read(x)
    scaled = jnp.exp(-log_scale)
    z = scaled * (x - shift)
    weights = params["out"]["w"].astype(jnp.float32)
    of_scale, of_shift = jnp.split(weights, 2) if step.scales else (jnp.zeros_like(weights), weights)
    convergence = _spectral((scaled * x).mean(0)) * _spectral(of_scale) + _spectral(of_shift)
    return jnp.stack([convergence, missed(z), missed(z.at[:, 1:].set(0.0))])


def _spectral(matrix: Float[Array, "M N"]) -> Float[Array, ""]:
    norm: Array = jnp.linalg.norm(jnp.asarray(matrix), ord=2)
    return norm
