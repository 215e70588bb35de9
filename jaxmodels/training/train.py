"""The train step: gradients accumulated over micro-batches, one optimizer update, one compiled program."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.host_memory import refuse_host_memory
from jaxmodels.layers.moe.routing import Routing
from jaxmodels.layers.quantized.quantization import refuse_quantized
from jaxmodels.layers.spec import Params, abstract_params, init_params
from jaxmodels.models.filling import filling_of
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.objectives.objective import Objective, Windows
from jaxmodels.training.objectives.scorer import Scorer
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
    """What micro-batches add up to beside gradients: losses times the tokens that count, and their count."""

    loss: Float[Array, ""]
    router_loss: Float[Array, ""]
    count: Float[Array, ""]
    loads: Loads


TrainStep: TypeAlias = Callable[..., tuple[TrainState, Metrics]]

NEXT_TOKEN = NextToken()
# What the noise of objectives is drawn with; router losses count from 0.
_FOR_OBJECTIVE = 2**31 - 1


def init_state(
    model: Trainable,
    optimizer: optax.GradientTransformation,
    seed: int = 0,
    shardings: TrainState | None = None,
) -> TrainState:
    """Step 0: freshly drawn f32 parameters, on the default device or where `shardings` say."""
    draw = jax.jit(
        lambda key: first_state(init_params(model.spec(), key), optimizer), out_shardings=shardings
    )
    return draw(jax.random.key(seed))


def first_state(params: Params, optimizer: optax.GradientTransformation) -> TrainState:
    """Step 0 of a run that begins with f32 `params`. Raises ValueError where weights are in few bits
    or in host memory."""
    refuse_quantized(params, "training")
    refuse_host_memory(params, "training")
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
    objective: Objective = NEXT_TOKEN,
    accumulate: int = 1,
    router_losses: RouterLosses | None = None,
    seed: int = 0,
    shardings: TrainState | None = None,
) -> TrainStep:
    """Compiles one update.

    Args:
        model: what to train.
        optimizer: as built by `Optimizer.build` from the same schedule.
        schedule: only reported, as `learning_rate`.
        objective: what a batch is differentiated through.
        accumulate: micro-batches that a batch is cut into. Their gradients are weighted by the tokens that
            count, so the update is that of the whole batch; only the memory for activations changes.
        router_losses: for a model with mixtures of experts, which must be a `RoutedLanguageModel`.
        seed: of the noise that the objective and router losses draw at each step.
        shardings: where the state lies, if it is spread over a mesh: within ``jax.set_mesh`` it is given back
            there, and metrics are the same on all devices.

    Returns:
        ``step(state, tokens[B, S], mask[B, S] = None, valid[B] = None) -> (state, metrics)``. The state is
        donated; `mask` is which tokens are to be predicted, and `valid` how many leading tokens of each row
        are real, by default all. Metrics are f32 scalars: `loss` (before the update), `gradient_norm` (before
        clipping), `learning_rate`, and `finite` (1 if these and the updated parameters are finite numbers,
        else 0); with router losses also `router_loss`, which `loss` leaves out, and `busiest_expert` (see
        `busiest`).

    Raises:
        ValueError: `accumulate` is below 1, or (by the step) does not divide the batch; the model cannot be
            trained by `objective`, or has nothing that `router_losses` apply to.
    """
    if accumulate < 1:
        raise ValueError(f"make_train_step: accumulate must be at least 1, got {accumulate}")
    objective.check(model)
    total = _Total(model, objective, router_losses)

    def step(
        state: TrainState,
        tokens: Int[Array, "B S"],
        mask: Bool[Array, "B S"] | None = None,
        valid: Int[Array, "B"] | None = None,
    ) -> tuple[TrainState, Metrics]:
        if tokens.shape[0] % accumulate:
            raise ValueError(f"train step: a batch of {tokens.shape[0]} is not divisible by {accumulate=}")
        mask = jnp.ones(tokens.shape, bool) if mask is None else mask
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        windows = Windows(
            tokens=tokens,
            predicted=mask & answerable(model, tokens),
            valid=valid,
            step=jnp.broadcast_to(state.step, tokens.shape[:1]),
        )
        drawn = objective.prepare(windows, jax.random.fold_in(key, _FOR_OBJECTIVE))
        micro_batches = jax.tree.map(lambda leaf: leaf.reshape(accumulate, -1, *leaf.shape[1:]), drawn)
        grads, sums = _accumulated(total, state.params, micro_batches, key)
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

    if shardings is None:
        return jax.jit(step, donate_argnums=0)
    alike: Any = shardings.step  # a scalar, like the metrics
    return jax.jit(step, donate_argnums=0, out_shardings=(shardings, alike))


def _all_finite(tree: Any) -> Float[Array, ""]:
    return jnp.stack([jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(tree)]).all().astype(jnp.float32)


@dataclass(frozen=True)
class _Total:
    """What a micro-batch is differentiated through: its losses, each times the tokens that count."""

    model: Trainable
    objective: Objective
    router_losses: RouterLosses | None

    def __call__(
        self, params: Params, example: Any, loads: Loads, key: jax.Array
    ) -> tuple[Float[Array, ""], Sums]:
        """`loads` are those of the micro-batches before."""
        score = Scorer(self.model, params, is_routed=self.router_losses is not None)
        mean, count = self.objective.loss(score, example)
        extra, loads_here = jnp.zeros(()), loads_of({})
        if self.router_losses is not None:
            extra = self.router_losses.total(params, score.routings, loads, key)
            loads_here = loads_of(score.routings)
        sums = Sums(loss=mean * count, router_loss=extra * count, count=count, loads=loads_here)
        return (mean + extra) * count, sums

    def nothing(self, params: Params, example: Any) -> Sums:
        """The sums before the first micro-batch."""
        zero = jnp.zeros(())
        if self.router_losses is None:
            return Sums(loss=zero, router_loss=zero, count=zero, loads={})
        routings = jax.eval_shape(self._routings, params, example)
        self.router_losses.check(self.model.spec(), routings)
        loads = jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), jax.eval_shape(loads_of, routings))
        return Sums(loss=zero, router_loss=zero, count=zero, loads=loads)

    def _routings(self, params: Params, example: Any) -> dict[str, Routing]:
        score = Scorer(self.model, params, is_routed=True)
        self.objective.loss(score, example)
        return score.routings


def _accumulated(total: _Total, params: Params, micro_batches: Any, key: jax.Array) -> tuple[Params, Sums]:
    """The gradients per token that counts of all micro-batches together, and their sums."""

    def add(carry, micro_batch):  # type: ignore[no-untyped-def]
        loads = carry[1].loads
        (_, sums), grads = jax.value_and_grad(total, has_aux=True)(params, micro_batch, loads, key)
        return jax.tree.map(jnp.add, carry, (grads, sums)), None

    nothing = total.nothing(params, jax.tree.map(lambda leaf: leaf[0], micro_batches))
    start = (jax.tree.map(jnp.zeros_like, params), nothing)
    (grads, sums), _ = jax.lax.scan(add, start, micro_batches)
    return jax.tree.map(lambda g: g / jnp.maximum(sums.count, 1.0), grads), sums


def answerable(model: Trainable, tokens: Int[Array, "B S"]) -> Bool[Array, " S"]:
    """Which places a model that fills in masks has logits for; all where it fills in none."""
    filling = filling_of(model)
    return jnp.arange(tokens.shape[1]) >= (0 if filling is None else filling.offset)
