"""A draft length that follows the mean number of accepted tokens, in steps."""

import math
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, number, shown, whole
from jaxmodels.decoding.drafters.drafter import LIMIT
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class AcceptedSoFar:
    """What a row's drafts came to.

    Attributes:
        step: i32[B], the index of its draft length among the steps.
        mean: f32[B], of accepted tokens, those of the last rounds above all.
        rounds: i32[B], in which the row was drafted tokens.
    """

    step: jax.Array
    mean: jax.Array
    rounds: jax.Array


@dataclass(frozen=True, kw_only=True)
class MeanAccepted:
    """A `DraftLength`: one of a few steps, chosen by a moving mean of the accepted tokens.

    After each round, ``mean = decay * mean + (1 - decay) * accepted``. Every `every` rounds behind the first
    `warm_up`, the length drops while ``mean <= below - drop`` for the step below, or else rises while
    ``mean > length - rise``. Rounds in which a row was drafted nothing change nothing. Source: the adaptive
    number of steps of SGLang, for a batch of one; there the rows of a batch have one length together, and the
    mean starts as it does here by inference.

    Attributes:
        steps: lengths, ascending. Static, as what bounds them is.
        start: one of them. Data, as all below.
        decay, drop, rise: numbers from 0, `decay` to 1.
        warm_up, every: rounds.

    Raises:
        ValueError: steps that are no ascending numbers from 1, a `start` that is none of them, or a number
            outside its range.
    """

    steps: tuple[int, ...] = (1, 3, 5, 7)
    start: Array | int = 3
    decay: Array | float = 0.8
    drop: Array | float = 0.75
    rise: Array | float = 0.5
    warm_up: Array | int = 10
    every: Array | int = 5

    def __post_init__(self) -> None:
        if not isinstance(self.steps, tuple | list) or not self.steps:
            raise ValueError(
                f"steps must be numbers of tokens, such as (1, 3, 5, 7), got {shown(self.steps)}"
            )
        steps = tuple(whole(f"steps[{i}]", step, low=1) for i, step in enumerate(self.steps))
        if list(steps) != sorted(set(steps)):
            raise ValueError(f"steps must ascend, got {steps}")
        object.__setattr__(self, "steps", steps)
        for name, low in (("start", 1), ("warm_up", 0), ("every", 1)):
            if not is_traced(getattr(self, name)):
                object.__setattr__(self, name, whole(name, getattr(self, name), low=low))
        if not is_traced(self.start) and self.start not in steps:
            raise ValueError(f"start={self.start} must be one of steps={steps}")
        for name, high in (("decay", 1.0), ("drop", math.inf), ("rise", math.inf)):
            if not is_traced(getattr(self, name)):
                object.__setattr__(self, name, number(name, getattr(self, name), low=0.0, high=high))

    @property
    def varies(self) -> bool:
        return True

    @property
    def needs(self) -> frozenset[str]:
        return LIMIT

    def begin(self, batch: int) -> AcceptedSoFar:
        """Each row starts with `start`, as if so many had been accepted on average."""
        return AcceptedSoFar(
            step=jnp.full((batch,), jnp.argmax(jnp.asarray(self.steps) == self.start), jnp.int32),
            mean=jnp.full((batch,), self.start, jnp.float32),
            rounds=jnp.zeros((batch,), jnp.int32),
        )

    def limit(self, state: AcceptedSoFar, size: int) -> Int[Array, "B"]:
        return jnp.minimum(jnp.asarray(self.steps)[state.step], size)

    def stop(
        self, state: AcceptedSoFar, index: Int[Array, ""] | int, probability: Float[Array, "B"]
    ) -> Bool[Array, "B"]:
        return jnp.zeros(state.step.shape, bool)

    def update(
        self, state: AcceptedSoFar, count: Int[Array, "B"], accepted: Int[Array, "B"]
    ) -> AcceptedSoFar:
        steps, last = jnp.asarray(self.steps), len(self.steps) - 1
        mean = self.decay * state.mean + (1 - self.decay) * accepted
        rounds, step = state.rounds + 1, state.step

        def drops(_: Array, step: Array) -> Array:
            below = steps[jnp.maximum(step - 1, 0)]
            return step - ((step > 0) & (mean <= below - self.drop))

        def rises(_: Array, step: Array) -> Array:
            return step + ((step < last) & (mean > steps[step] - self.rise))

        lower = lax.fori_loop(0, last, drops, step)
        higher = lax.fori_loop(0, last, rises, step)
        due = (rounds > self.warm_up) & (rounds % self.every == 0)
        changed = jnp.where(due, jnp.where(lower < step, lower, higher), step)
        found = replace(state, step=changed, mean=mean, rounds=rounds)
        return jax.tree.map(lambda new, old: jnp.where(count > 0, new, old), found, state)


register_dataclass(MeanAccepted, ["start", "decay", "drop", "rise", "warm_up", "every"], ["steps"])
