"""The fitting of one model to examples, in a directory of its own, resumable at any time."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from rich.console import Console

from jaxmodels.checks import number, shown, whole
from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.training.average import AveragedState, averaged
from jaxmodels.training.checkpointing import TrainCheckpoints
from jaxmodels.training.metrics import append_metrics, rewind_metrics
from jaxmodels.training.optimizer import AdamW, Muon, WarmupCosine, WarmupStableDecay
from jaxmodels.training.recipe_kind import RecipeKind
from jaxmodels.training.run_directory import RECIPE_FILE
from jaxmodels.training.train import TrainState, abstract_state, first_state, init_state


class Fitted(Protocol):
    """What is fitted."""

    def spec(self) -> ParamTree: ...


# From the parameters that are differentiated, the state in front of the step, a batch and a key to what is
# differentiated, and to what is told beside it.
Loss: TypeAlias = Callable[[Params, TrainState, Any, Array], tuple[Float[Array, ""], Float[Array, ""]]]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How a model is fitted.

    Attributes:
        schedule: learning rate of each step, and the number of steps.
        optimizer: what makes updates of gradients.
        batch_size: examples per step.
        average: what the moving average of the parameters keeps of itself in each step (see
            `training.average`). The average is then what is trained; None gives the last parameters.

    Raises:
        ValueError: `batch_size` is below 1, or `average` not from 0 to below 1.
    """

    schedule: WarmupCosine | WarmupStableDecay
    optimizer: AdamW | Muon = field(default_factory=AdamW)
    batch_size: int = 32
    average: float | None = None

    def __post_init__(self) -> None:
        whole("Fit: batch_size", self.batch_size, low=1)
        if self.average is not None and number("Fit: average", self.average, low=0, high=1) == 1:
            raise ValueError("Fit: average must be below 1, or the first parameters are kept for ever")


# What the fields of a `Fit` that JSON has as objects become, see `RecipeKind`.
FIT_PARTS: Mapping[str, Mapping[str, type]] = {
    "schedule": {"warmup_cosine": WarmupCosine, "warmup_stable_decay": WarmupStableDecay},
    "optimizer": {"adamw": AdamW, "muon": Muon},
}


def check_fitted_to_text(recipe: Any) -> None:
    """Raises ValueError unless a recipe names files, and its seed and numbers of windows and steps are in
    range; makes its lists of files tuples."""
    name_of = type(recipe).__name__
    for name in ("evaluation_windows", "log_every", "checkpoint_every"):
        whole(f"{name_of}: {name}", getattr(recipe, name), low=1)
    whole(f"{name_of}: seed", recipe.seed, high=2**63 - 1)
    for name in ("train_files", "held_out_files"):
        files = getattr(recipe, name)
        if not isinstance(files, list | tuple) or not files:
            raise ValueError(f"{name_of}: {name} must name files, got {shown(files)}")
        object.__setattr__(recipe, name, tuple(files))


@dataclass(frozen=True, kw_only=True)
class Fitting:
    """Where and how often a fitting writes.

    Attributes:
        output: its directory, which gets checkpoints and ``metrics.jsonl``.
        seed: of the initial parameters, the order of the examples and all noise.
        log_every, checkpoint_every: in steps.
        console: where progress is told.
    """

    output: Path
    seed: int
    log_every: int
    checkpoint_every: int
    console: Console

    def run(
        self,
        model: Fitted,
        fit: Fit,
        data: Any,
        loss: Loss,
        *,
        start: Params | None = None,
        before: Callable[[TrainState, int], TrainState] = lambda state, step: state,
    ) -> Params:
        """Fits `model`, or goes on from the last checkpoint.

        Args:
            data: a pytree of arrays [N, ...], of which each step gets a batch.
            loss: what is differentiated.
            start: the f32 parameters that a run begins with, which it is given away; None draws them.
            before: what is done to the state in front of the step with this number.

        Raises:
            ValueError: a step takes more examples than there are.
        """
        count = len(jax.tree.leaves(data)[0])
        if fit.batch_size > count:
            raise ValueError(f"Fit: batch_size={fit.batch_size} exceeds the {count} examples to train on")
        log, total = self.output / "metrics.jsonl", fit.schedule.total_steps
        self.output.mkdir(parents=True, exist_ok=True)
        optimizer = fit.optimizer.build(fit.schedule, model.spec())
        if fit.average is not None:
            optimizer = averaged(optimizer, fit.average)
        update = _update(loss, optimizer, self.seed)
        with TrainCheckpoints(self.output / "checkpoints") as checkpoints:
            if checkpoints.latest_step() is None:
                state = (
                    init_state(model, optimizer, self.seed)  # type: ignore[arg-type]
                    if start is None
                    else first_state(start, optimizer)
                )
            else:
                state = checkpoints.restore(abstract_state(model, optimizer))  # type: ignore[arg-type]
            first = int(state.step)
            rewind_metrics(log, first)
            began = time.perf_counter()
            batches = _batches(count, fit.batch_size, self.seed, first)
            for done in range(first + 1, total + 1):
                state, chosen = before(state, done - 1), next(batches)
                batch = jax.tree.map(lambda leaf, rows=chosen: jnp.asarray(leaf[rows]), data)
                state, told = update(state, batch)
                if done % self.log_every == 0 or done == total:
                    record = {"step": done, "seconds": time.perf_counter() - began, "loss": float(told)}
                    append_metrics(log, record)
                    self.console.print(f"{self.output.name} {done}/{total}: loss {record['loss']:.4f}")
                if done % self.checkpoint_every == 0 or done == total:
                    checkpoints.save(state)
        return average_of(state)


def average_of(state: TrainState) -> Params:
    """The average of the parameters so far, where one is kept; else the parameters."""
    return state.opt_state.average if isinstance(state.opt_state, AveragedState) else state.params


def claim(output: Path, kind: RecipeKind[Any], recipe: Any) -> None:
    """Ties a directory to one recipe; raises ValueError where it is another's."""
    path = output / RECIPE_FILE
    if not path.exists():
        kind.save(recipe, path)
        return
    saved, given = kind.to_dict(kind.load(path)), kind.to_dict(recipe)
    changed = [f"{key}: {saved[key]!r} -> {given[key]!r}" for key in saved if saved[key] != given[key]]
    if changed:
        raise ValueError(
            f"{str(output)!r} holds a run of another recipe ({'; '.join(changed)}); choose another output_dir"
        )


def _update(
    loss: Loss, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[TrainState, Any], tuple[TrainState, Array]]:
    """One compiled step; its state is donated."""

    def update(state: TrainState, batch: Any) -> tuple[TrainState, Array]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (_, told), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, state, batch, key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), told

    return jax.jit(update, donate_argnums=0)


def _batches(count: int, size: int, seed: int, first: int) -> Iterator[Int[np.ndarray, " size"]]:
    """The examples of each step from the step numbered `first` on: every pass has an order of its own."""
    per_pass = count // size
    for step in range(first, 2**62):
        turn, place = divmod(step, per_pass)
        order = np.random.default_rng((seed, turn)).permutation(count)
        yield order[place * size : (place + 1) * size]
