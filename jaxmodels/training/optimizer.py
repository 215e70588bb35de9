"""Learning-rate schedules and optimizers."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike
from jaxtyping import Array, Float
from optax.contrib import MuonDimensionNumbers, scale_by_muon

from jaxmodels.checks import number, whole
from jaxmodels.layers.spec import Param, ParamTree, unflatten, walk

_STACKED = ("layers", "experts")
# The end of a bias's path; the ``b_`` of an adapter is the second factor of what it adds.
_BIAS = re.compile(r"(?<!/adapter)/b_\w+$|bias\w*$")


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


class Optimizer(Protocol):
    """How gradients become updates. Implementations are frozen dataclasses."""

    def build(self, schedule: Schedule, spec: ParamTree) -> optax.GradientTransformation:
        """The optax transformation for parameters of `spec`; `frozen` ones get updates of zero."""
        ...


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
        _check_optimizer(self, decays=("b1", "b2"), positive=("eps", "clip_norm"))

    def build(self, schedule: Schedule, spec: ParamTree) -> optax.GradientTransformation:
        """The optax transformation for parameters of `spec`."""
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
            *_holding_frozen(spec),
        )


@dataclass(frozen=True, kw_only=True)
class Muon:
    """Momentum made orthogonal, for the matrices that read or write the residual stream; Adam for the rest.

    An update of a matrix is the orthogonal matrix nearest to its Nesterov momentum, so that all directions
    move alike (https://kellerjordan.github.io/posts/muon). Its entries are scaled to a root mean square of
    about `update_rms`, which lets Adam and Muon share a learning rate (https://arxiv.org/abs/2502.16982).
    `orthogonalised` says which parameters it applies to.

    Attributes:
        beta: of the momentum.
        newton_schulz_steps: iterations of the orthogonalisation.
        update_rms: root mean square of the entries of an update, per unit of learning rate.
        b1, b2, eps: of Adam.
        weight_decay: per unit of learning rate, on matrices only (`decayed`).
        clip_norm: largest global norm of the gradient.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    beta: float = 0.95
    newton_schulz_steps: int = 5
    update_rms: float = 0.2
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        whole("Muon: newton_schulz_steps", self.newton_schulz_steps, low=1)
        _check_optimizer(self, decays=("beta", "b1", "b2"), positive=("update_rms", "eps", "clip_norm"))

    def build(self, schedule: Schedule, spec: ParamTree) -> optax.GradientTransformation:
        """The optax transformation for parameters of `spec`."""
        sides = orthogonalised(spec)
        spec_of = dict(walk(spec))
        scales = {
            path: self.update_rms * math.sqrt(_wider_side(spec_of[path], sides[path])) for path in sides
        }

        def masked(values: Mapping[str, Any]) -> dict[str, Any]:
            return unflatten({path: values.get(path, optax.MaskedNode()) for path in spec_of}, spec)

        muon = optax.chain(
            scale_by_muon(
                ns_steps=self.newton_schulz_steps, beta=self.beta, weight_dimension_numbers=masked(sides)
            ),
            optax.stateless(lambda updates, params: jax.tree.map(jnp.multiply, updates, masked(scales))),
        )
        return optax.chain(
            optax.clip_by_global_norm(self.clip_norm),
            optax.partition(
                {"muon": muon, "adam": optax.scale_by_adam(b1=self.b1, b2=self.b2, eps=self.eps)},
                unflatten({path: "muon" if path in sides else "adam" for path in spec_of}, spec),
            ),
            optax.add_decayed_weights(self.weight_decay, mask=decayed(spec)),
            optax.scale_by_learning_rate(schedule),
            *_holding_frozen(spec),
        )


def orthogonalised(spec: ParamTree) -> dict[str, MuonDimensionNumbers]:
    """The parameters that Muon applies to, by path, each with the axes of its two sides.

    They are those with one axis "embed" and, apart from stacks of layers or experts, something on the other
    side of it; a projection's heads and head dimension count as one side. Vocabulary matrices are left to
    Adam, as Muon's authors advise: their rows are independent of each other.
    """
    sides = {}
    for path, param in walk(spec):
        axes = [(i, axis) for i, axis in enumerate(param.axes) if axis not in _STACKED]
        stream = [i for i, axis in axes if axis == "embed"]
        others = tuple(i for i, axis in axes if axis != "embed")
        if len(stream) == 1 and others and "vocab" not in param.axes:
            sides[path] = MuonDimensionNumbers(reduction_axis=stream[0], output_axis=others)
    return sides


def decayed(spec: ParamTree) -> dict[str, Any]:
    """Which parameters weight decay applies to: True at matrices, False at norms, biases, other vectors.

    Stacks of layers or experts are judged by what they stack. Biases of projections to several axes, such as
    heads, have several as well and are told by their names.
    """

    def is_matrix(path: str, param: Param) -> bool:
        return sum(axis not in _STACKED for axis in param.axes) >= 2 and not _BIAS.search(path)

    return unflatten({path: is_matrix(path, param) for path, param in walk(spec)}, spec)


def _holding_frozen(spec: ParamTree) -> list[optax.GradientTransformation]:
    frozen = {path: param.frozen for path, param in walk(spec)}
    return [optax.masked(optax.set_to_zero(), unflatten(frozen, spec))] if any(frozen.values()) else []


def _wider_side(param: Param, sides: MuonDimensionNumbers) -> int:
    return max(param.shape[sides.reduction_axis], math.prod(param.shape[i] for i in sides.output_axis))


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


def _check_optimizer(optimizer: AdamW | Muon, decays: tuple[str, ...], positive: tuple[str, ...]) -> None:
    """Checks fields by name; `decays` are decay rates of moving averages."""
    kind = type(optimizer).__name__
    for name in decays:
        if not 0 <= getattr(optimizer, name) < 1:
            raise ValueError(f"{kind}: {name} must be in [0, 1), got {getattr(optimizer, name)}")
    for name in positive:
        if not 0 < getattr(optimizer, name) < math.inf:
            raise ValueError(f"{kind}: {name} must be positive, got {getattr(optimizer, name)}")
    number(f"{kind}: weight_decay", optimizer.weight_decay, low=0)
