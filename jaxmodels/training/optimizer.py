"""Learning-rate schedules and AdamW."""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.layers.spec import Param, ParamTree, unflatten, walk


class Schedule(Protocol):
    """The learning rate of each step, for `total_steps` steps. Implementations are frozen dataclasses."""

    @property
    def total_steps(self) -> int: ...

    def __call__(self, step: ArrayLike) -> Float[Array, ""]: ...


@dataclass(frozen=True, kw_only=True)
class WarmupCosine:
    """Rises linearly to `peak` over `warmup_steps`, then falls as a half cosine to `final_fraction * peak`.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    peak: float
    warmup_steps: int
    total_steps: int
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        _check_schedule(self.peak, self.warmup_steps, self.total_steps, self.final_fraction)

    def __call__(self, step: ArrayLike) -> Float[Array, ""]:
        fallen = _progress(step, self.warmup_steps, self.total_steps)
        fraction = self.final_fraction + (1 - self.final_fraction) * 0.5 * (1 + jnp.cos(jnp.pi * fallen))
        return self.peak * _warmup(step, self.warmup_steps) * fraction


@dataclass(frozen=True, kw_only=True)
class WarmupStableDecay:
    """Rises linearly to `peak`, stays, and falls linearly over the last `decay_steps`.

    It ends at `final_fraction * peak`. See https://arxiv.org/abs/2405.18392: the stable part need not know
    the length of the run.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    peak: float
    warmup_steps: int
    decay_steps: int
    total_steps: int
    final_fraction: float = 0.0

    def __post_init__(self) -> None:
        _check_schedule(self.peak, self.warmup_steps, self.total_steps, self.final_fraction)
        if not 0 <= self.decay_steps <= self.total_steps - self.warmup_steps:
            raise ValueError(
                f"decay_steps must be in 0..{self.total_steps - self.warmup_steps} "
                f"(total_steps - warmup_steps), got {self.decay_steps}"
            )

    def __call__(self, step: ArrayLike) -> Float[Array, ""]:
        fallen = _progress(step, self.total_steps - self.decay_steps, self.total_steps)
        return self.peak * _warmup(step, self.warmup_steps) * (1 - (1 - self.final_fraction) * fallen)


@dataclass(frozen=True, kw_only=True)
class AdamW:
    """Adam with decoupled weight decay (https://arxiv.org/abs/1711.05101) after clipping by global norm.

    Attributes:
        b1, b2, eps: of Adam.
        weight_decay: per unit of learning rate, on matrices only (`decayed`).
        clip_norm: largest global norm of the gradient.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        for name in ("b1", "b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"AdamW: {name} must be in [0, 1), got {getattr(self, name)}")
        for name in ("eps", "clip_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"AdamW: {name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"AdamW: weight_decay must not be negative, got {self.weight_decay}")

    def build(self, schedule: Schedule, spec: ParamTree) -> optax.GradientTransformation:
        """The optax transformation for parameters of `spec`."""
        frozen = unflatten({path: param.frozen for path, param in walk(spec)})
        held = [optax.masked(optax.set_to_zero(), frozen)] if any(p.frozen for _, p in walk(spec)) else []
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.adamw(
                schedule,
                b1=self.b1,
                b2=self.b2,
                eps=self.eps,
                weight_decay=self.weight_decay,
                mask=decayed(spec),
            ),
            *held,
        )


def decayed(spec: ParamTree) -> dict[str, Any]:
    """Which parameters weight decay applies to: True at matrices, False at norms, biases, other vectors.

    Stacks of layers or experts are judged by what they stack.
    """

    def is_matrix(param: Param) -> bool:
        return sum(axis not in ("layers", "experts") for axis in param.axes) >= 2

    return unflatten({path: is_matrix(param) for path, param in walk(spec)})


def _warmup(step: ArrayLike, warmup_steps: int) -> Float[Array, ""]:
    # (step + 1): a first step with learning rate 0 would be wasted
    return jnp.minimum((jnp.asarray(step, jnp.float32) + 1) / max(warmup_steps, 1), 1.0)


def _progress(step: ArrayLike, start: int, end: int) -> Float[Array, ""]:
    return jnp.clip((jnp.asarray(step, jnp.float32) - start) / max(end - start, 1), 0.0, 1.0)


def _check_schedule(peak: float, warmup_steps: int, total_steps: int, final_fraction: float) -> None:
    if not 0 < peak < math.inf:
        raise ValueError(f"peak must be a positive learning rate, got {peak}")
    whole("total_steps", total_steps, low=1)
    if not 0 <= warmup_steps <= total_steps:
        raise ValueError(f"warmup_steps must be in 0..{total_steps} (total_steps), got {warmup_steps}")
    if not 0 <= final_fraction <= 1:
        raise ValueError(f"final_fraction must be in [0, 1], got {final_fraction}")
