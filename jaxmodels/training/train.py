"""The train step: gradients accumulated over micro-batches, one optimizer update, one compiled program."""

from collections.abc import Callable
from typing import TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.spec import Params, abstract_params, init_params
from jaxmodels.training.language_model import LanguageModel
from jaxmodels.training.loss import language_model_loss
from jaxmodels.training.optimizer import Schedule

Metrics: TypeAlias = dict[str, Float[Array, ""]]


@struct.dataclass
class TrainState:
    """All that a run carries from step to step: the data of step i follows from `step` alone."""

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState


TrainStep: TypeAlias = Callable[..., tuple[TrainState, Metrics]]


def init_state(model: LanguageModel, optimizer: optax.GradientTransformation, seed: int = 0) -> TrainState:
    """Step 0: freshly drawn f32 parameters."""

    @jax.jit
    def draw(key: jax.Array) -> TrainState:
        params = init_params(model.spec(), key)
        return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))

    return draw(jax.random.key(seed))


def abstract_state(model: LanguageModel, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of `init_state`, with nothing allocated."""
    params = abstract_params(model.spec())
    opt_state = jax.eval_shape(optimizer.init, params)
    step = jax.eval_shape(lambda: jnp.zeros((), jnp.int32))
    return TrainState(step=step, params=params, opt_state=opt_state)


def make_train_step(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    accumulate: int = 1,
    z_loss: float = 0.0,
) -> TrainStep:
    """Compiles one update.

    Args:
        model: what to train.
        optimizer: as built by `AdamW.build` from the same schedule.
        schedule: only reported, as `learning_rate`.
        accumulate: micro-batches that a batch is cut into. Their gradients are weighted by predicted
            tokens, so the update is that of the whole batch; only the memory for activations changes.
        z_loss: see `language_model_loss`.

    Returns:
        ``step(state, tokens[B, S], mask[B, S] = None) -> (state, metrics)``. The state is donated. Metrics
        are f32 scalars: `loss` (with any z-loss, before the update), `gradient_norm` (before clipping) and
        `learning_rate`.

    Raises:
        ValueError: `accumulate` is below 1, or (by the step) does not divide the batch.
    """
    if accumulate < 1:
        raise ValueError(f"make_train_step: accumulate must be at least 1, got {accumulate}")

    def total_loss(
        params: Params, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        mean, count = language_model_loss(model.forward(params, tokens), tokens, mask, z_loss=z_loss)
        return mean * count, count

    def step(
        state: TrainState, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"] | None = None
    ) -> tuple[TrainState, Metrics]:
        if tokens.shape[0] % accumulate:
            raise ValueError(f"train step: a batch of {tokens.shape[0]} is not divisible by {accumulate=}")
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask

        def add_micro_batch(sums, micro_batch):  # type: ignore[no-untyped-def]
            (loss, count), grads = jax.value_and_grad(total_loss, has_aux=True)(state.params, *micro_batch)
            return jax.tree.map(jnp.add, sums, (grads, loss, count)), None

        zeros = (jax.tree.map(jnp.zeros_like, state.params), jnp.zeros(()), jnp.zeros(()))
        cut = tuple(x.reshape(accumulate, -1, *x.shape[1:]) for x in (tokens, mask))
        (grads, loss, count), _ = jax.lax.scan(add_micro_batch, zeros, cut)
        count = jnp.maximum(count, 1.0)
        grads = jax.tree.map(lambda g: g / count, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        metrics = {
            "loss": loss / count,
            "gradient_norm": jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))),
            "learning_rate": schedule(state.step),
        }
        params = optax.apply_updates(state.params, updates)
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(step, donate_argnums=0)
