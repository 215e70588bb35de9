"""The train step: gradients accumulated over micro-batches, one optimizer update, one compiled program."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.moe.routing import Routing
from jaxmodels.layers.spec import Params, abstract_params, init_params
from jaxmodels.training.loss import language_model_loss
from jaxmodels.training.optimizer import Schedule
from jaxmodels.training.router_losses import Loads, RouterLosses, busiest, loads_of
from jaxmodels.training.trainable import Trainable

Metrics: TypeAlias = dict[str, Float[Array, ""]]


@struct.dataclass
class TrainState:
    """All that a run carries from step to step: the data of step i follows from `step` alone."""

    step: Int[Array, ""]
    params: Params
    opt_state: optax.OptState


@struct.dataclass
class Sums:
    """What micro-batches add up to beside gradients: losses weighted by predicted tokens, and their count."""

    loss: Float[Array, ""]
    router_loss: Float[Array, ""]
    count: Float[Array, ""]
    loads: Loads


TrainStep: TypeAlias = Callable[..., tuple[TrainState, Metrics]]


def init_state(model: Trainable, optimizer: optax.GradientTransformation, seed: int = 0) -> TrainState:
    """Step 0: freshly drawn f32 parameters."""
    draw = jax.jit(lambda key: first_state(init_params(model.spec(), key), optimizer))
    return draw(jax.random.key(seed))


def first_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0 of a run that begins with f32 `params`."""
    return TrainState(step=jnp.zeros((), jnp.int32), params=params, opt_state=optimizer.init(params))


def abstract_state(model: Trainable, optimizer: optax.GradientTransformation) -> TrainState:
    """Shapes and dtypes of `init_state`, with nothing allocated."""
    params = abstract_params(model.spec())
    opt_state = jax.eval_shape(optimizer.init, params)
    step = jax.eval_shape(lambda: jnp.zeros((), jnp.int32))
    return TrainState(step=step, params=params, opt_state=opt_state)


def make_train_step(
    model: Trainable,
    optimizer: optax.GradientTransformation,
    schedule: Schedule,
    *,
    accumulate: int = 1,
    z_loss: float = 0.0,
    router_losses: RouterLosses | None = None,
    seed: int = 0,
) -> TrainStep:
    """Compiles one update.

    Args:
        model: what to train.
        optimizer: as built by `Optimizer.build` from the same schedule.
        schedule: only reported, as `learning_rate`.
        accumulate: micro-batches that a batch is cut into. Their gradients are weighted by predicted
            tokens, so the update is that of the whole batch; only the memory for activations changes.
        z_loss: see `language_model_loss`.
        router_losses: for a model with mixtures of experts, which must be a `RoutedLanguageModel`.
        seed: of the noise that router losses draw at each step.

    Returns:
        ``step(state, tokens[B, S], mask[B, S] = None) -> (state, metrics)``. The state is donated. Metrics
        are f32 scalars: `loss` (with any z-loss, before the update), `gradient_norm` (before clipping),
        `learning_rate`, and `finite` (1 if these and the updated parameters are finite numbers, else 0);
        with router losses also `router_loss`, which `loss` leaves out, and `busiest_expert` (see `busiest`).

    Raises:
        ValueError: `accumulate` is below 1, or (by the step) does not divide the batch; the model has nothing
            that `router_losses` apply to.
    """
    if accumulate < 1:
        raise ValueError(f"make_train_step: accumulate must be at least 1, got {accumulate}")
    objective = _Objective(model, z_loss, router_losses)

    def step(
        state: TrainState, tokens: Int[Array, "B S"], mask: Bool[Array, "B S"] | None = None
    ) -> tuple[TrainState, Metrics]:
        if tokens.shape[0] % accumulate:
            raise ValueError(f"train step: a batch of {tokens.shape[0]} is not divisible by {accumulate=}")
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask
        shape = (accumulate, -1, tokens.shape[1])
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        micro_batches = (tokens.reshape(shape), mask.reshape(shape))
        grads, sums = _accumulated(objective, state.params, micro_batches, key)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        count = jnp.maximum(sums.count, 1.0)
        metrics = {
            "loss": sums.loss / count,
            "gradient_norm": jnp.sqrt(sum(jnp.sum(g**2) for g in jax.tree.leaves(grads))),
            "learning_rate": schedule(state.step),
        }
        params = optax.apply_updates(state.params, updates)
        if router_losses is not None:
            metrics |= {"router_loss": sums.router_loss / count, "busiest_expert": busiest(sums.loads)}
            params = router_losses.after_update(params, sums.loads)
        metrics["finite"] = _all_finite((metrics["loss"], metrics["gradient_norm"], params))
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), metrics

    return jax.jit(step, donate_argnums=0)


def _all_finite(tree: Any) -> Float[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all().astype(jnp.float32)


@dataclass(frozen=True)
class _Objective:
    """What a micro-batch is differentiated through: its losses, each times the tokens it predicts."""

    model: Trainable
    z_loss: float
    router_losses: RouterLosses | None

    def __call__(
        self,
        params: Params,
        tokens: Int[Array, "B S"],
        mask: Bool[Array, "B S"],
        loads: Loads,
        key: jax.Array,
    ) -> tuple[Float[Array, ""], Sums]:
        """`loads` are those of the micro-batches before."""
        logits, routings = self._run(params, tokens)
        mean, count = language_model_loss(logits, tokens, mask, z_loss=self.z_loss)
        extra = jnp.zeros(())
        if self.router_losses is not None:
            extra = self.router_losses.total(params, routings, loads, key)
        sums = Sums(loss=mean * count, router_loss=extra * count, count=count, loads=loads_of(routings))
        return (mean + extra) * count, sums

    def nothing(self, params: Params, tokens: Int[Array, "B S"]) -> Sums:
        """The sums before the first micro-batch."""
        _, routings = jax.eval_shape(self._run, params, tokens)
        if self.router_losses is not None:
            self.router_losses.check(self.model.spec(), routings)
        loads = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(loads_of, routings))
        zero = jnp.zeros(())
        return Sums(loss=zero, router_loss=zero, count=zero, loads=loads)

    def _run(
        self, params: Params, tokens: Int[Array, "B S"]
    ) -> tuple[Float[Array, "B S V"], dict[str, Routing]]:
        if self.router_losses is None:
            return self.model.forward(params, tokens), {}
        return self.model.forward_with_routing(params, tokens)  # type: ignore[attr-defined]


def _accumulated(
    objective: _Objective,
    params: Params,
    micro_batches: tuple[Int[Array, "A B S"], Bool[Array, "A B S"]],
    key: jax.Array,
) -> tuple[Params, Sums]:
    """The gradients per predicted token of all micro-batches together, and their sums."""

    def add(carry, micro_batch):  # type: ignore[no-untyped-def]
        loads = carry[1].loads
        (_, sums), grads = jax.value_and_grad(objective, has_aux=True)(params, *micro_batch, loads, key)
        return jax.tree.map(jnp.add, carry, (grads, sums)), None

    nothing = objective.nothing(params, micro_batches[0][0])
    start = (jax.tree.map(jnp.zeros_like, params), nothing)
    (grads, sums), _ = jax.lax.scan(add, start, micro_batches)
    return jax.tree.map(lambda g: g / jnp.maximum(sums.count, 1.0), grads), sums
