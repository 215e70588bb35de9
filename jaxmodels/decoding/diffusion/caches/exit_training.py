"""Training of exits: what heads predict, and how unsure they say they are (DeeDiff)."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Float, Num

from jaxmodels.checks import number, whole
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.exit_heads import EXITS, exit_prediction, uncertainty, with_exits
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoisers.denoiser import Denoiser


@struct.dataclass
class Noised:
    """What heads learn from.

    Attributes:
        x: [B, H, W, C], noisy canvases.
        t: [B], their times.
        condition: of each row, as the denoiser takes it.
        target: [B, H, W, C], what the model should predict.
    """

    x: Float[Array, "B H W C"]
    t: Num[Array, "B"]
    condition: Any
    target: Float[Array, "B H W C"]


@struct.dataclass
class ExitLosses:
    """The parts of DeeDiff's loss, each of which is to fall.

    Attributes:
        final: f32[], the mean squared error of the model's own prediction.
        uncertainty: f32[], the squared errors of the uncertainties, summed over heads and rows.
        heads: f32[], the squared errors of the heads, weighed by how sure each should be: the mean over rows,
            summed over heads.
    """

    final: jax.Array
    uncertainty: jax.Array
    heads: jax.Array

    def total(self) -> Float[Array, ""]:
        """What is differentiated."""
        return self.final + self.uncertainty + self.heads


def exit_losses(
    predictions: Float[Array, "E B H W C"],
    uncertainties: Float[Array, "E B"],
    final: Float[Array, "B H W C"],
    target: Float[Array, "B H W C"],
) -> ExitLosses:
    """The loss of https://arxiv.org/abs/2309.17074, as https://github.com/razvanmatisan/duodiff computes it.

    A head's uncertainty should be the mean of ``tanh |prediction - target|``. The paper weighs a head's error
    by one minus its own uncertainty, the code by one minus what that should be, which is done here.

    Args:
        predictions: of each head.
        uncertainties: of each head.
        final: the model's own prediction.
        target: what all of them should predict.
    """
    away = jnp.abs(predictions - target)
    wanted = jnp.tanh(away).mean(axis=(2, 3, 4))
    squares = jnp.square(away).mean(axis=(2, 3, 4))
    return ExitLosses(
        final=jnp.square(final - target).mean(),
        uncertainty=jnp.square(uncertainties - wanted).sum(),
        heads=((1 - wanted) * squares).mean(axis=1).sum(),
    )


def losses_of(denoiser: Denoiser, params: Params, noised: Noised) -> ExitLosses:
    """The losses of a model with heads on a batch.

    Args:
        denoiser: the model.
        params: its parameters and its heads', see `with_exits`.
        noised: the batch.
    """
    given = denoiser.read(params, noised.condition)
    step = Step(params, noised.x, given, denoiser.conditions(params, noised.t, given), denoiser)
    channels = noised.target.shape[-1]
    streams, predictions, uncertainties = step.embed(), [], []
    for block in range(denoiser.num_blocks - 1):
        streams = step.run(streams, range(block, block + 1))
        predictions.append(exit_prediction(step, streams, block)[..., :channels])
        uncertainties.append(uncertainty(step, streams, block))
    last = range(denoiser.num_blocks - 1, denoiser.num_blocks)
    final = step.finish(step.run(streams, last))[..., :channels]
    return exit_losses(jnp.stack(predictions), jnp.stack(uncertainties), final, noised.target)


@dataclass(frozen=True, kw_only=True)
class ExitTraining:
    """How heads are trained upon a model that stays as it is.

    Attributes:
        steps: of Adam.
        learning_rate: at the beginning; it falls to 0 along a cosine.

    Raises:
        ValueError: a number outside its range.
    """

    steps: int = 1000
    learning_rate: float = 1e-3

    def __post_init__(self) -> None:
        whole("steps", self.steps, low=1)
        number("learning_rate", self.learning_rate, low=0.0, low_included=False)

    def train(
        self,
        denoiser: Denoiser,
        params: Params,
        draw: Callable[[int], Noised],
        progress: Callable[[int, ExitLosses], None] = lambda step, losses: None,
    ) -> Params:
        """The model's parameters with trained heads.

        Args:
            denoiser: the model.
            params: its parameters.
            draw: the batch of a step, by its number; all of one shape.
            progress: called behind each step with its number and losses.
        """
        optimizer = optax.adam(optax.cosine_decay_schedule(self.learning_rate, self.steps))
        heads = with_exits(denoiser, params)[EXITS]
        moments = optimizer.init(heads)

        @partial(jax.jit, donate_argnums=(0, 1))
        def update(heads: Params, moments: Any, params: Params, noised: Noised) -> Any:
            def loss(heads: Params) -> tuple[Array, ExitLosses]:
                losses = losses_of(denoiser, params | {EXITS: heads}, noised)
                return losses.total(), losses

            slopes, losses = jax.grad(loss, has_aux=True)(heads)
            changes, moments = optimizer.update(slopes, moments)
            return optax.apply_updates(heads, changes), moments, losses

        heads = jax.tree.map(jnp.array, heads)  # copies: those of the model are not given away
        for step in range(self.steps):
            heads, moments, losses = update(heads, moments, params, draw(step))
            progress(step, losses)
        return params | {EXITS: heads}
