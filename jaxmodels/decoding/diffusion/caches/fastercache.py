"""FasterCache: attentions are extrapolated, and predictions without a condition are made of those with it."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, number, shown, whole
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.outputs import (
    Outputs,
    no_outputs,
    parts_named,
    predict,
    predict_recording,
)
from jaxmodels.decoding.diffusion.caches.residuals import zeros_like
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass

_KINDS = ("mixer", "second")
_RANGES = ("both_within", "attention_within", "low_within", "high_within")


@struct.dataclass
class FasterCacheRow:
    """A step of `FasterCache`.

    Attributes:
        both: bool[], whether both conditions are computed.
        attends: bool[], whether attentions are computed; where both conditions are, they always are.
        weight: f32[], how far attentions go on along a line.
        low, high: f32[], what the two parts of the difference between the conditions grow by.
    """

    both: Any
    attends: Any
    weight: Any
    low: Any
    high: Any


@struct.dataclass
class FasterCacheState:
    """What is kept from step to step.

    Attributes:
        last, before: the attentions' outputs under the condition, of the last step and of the one before it.
        low, high: c64[B, H, W, C], the spectrum of the prediction without the condition less that with it, as
            it is taken for now, in low and in high frequencies.
        started: bool[], whether there was a step.
    """

    last: Outputs
    before: Outputs
    low: jax.Array
    high: jax.Array
    started: jax.Array


@dataclass(frozen=True, eq=False)
class FasterCache:
    """A `StepCache` for guided runs (https://arxiv.org/abs/2410.19355), as `FasterCacheConfig` of
    `diffusers`.

    The prediction without a condition is computed in one step of every few. In the others it is the one with
    it and their difference of then, whose low and high frequencies grow from step to step; every second one
    of those steps extrapolates the attentions from the last two.

    Attributes:
        both_every: of so many steps both conditions are computed in one.
        both_within: the times between which one may be left out, in the units of the model: those published
            are of models whose times go to 1000.
        attention_every: of so many steps the attentions are computed in one.
        attention_within: the times between which they may be extrapolated.
        weight: how far they go on along a line.
        growth: of the difference, in each step without the condition.
        low_within, high_within: the times between which low and high frequencies grow.

    Raises:
        ValueError: an option outside its range.
    """

    both_every: int = 5
    both_within: tuple[float, float] = (-1.0, 641.0)
    attention_every: int = 2
    attention_within: tuple[float, float] = (-1.0, 681.0)
    weight: float = 0.5
    growth: float = 1.1
    low_within: tuple[float, float] = (99.0, 901.0)
    high_within: tuple[float, float] = (-1.0, 301.0)

    def __post_init__(self) -> None:
        if is_traced(self.weight):
            return
        for name in ("both_every", "attention_every"):
            object.__setattr__(self, name, whole(name, getattr(self, name), low=1))
        for name in ("weight", "growth"):
            object.__setattr__(self, name, number(name, getattr(self, name), low=0.0))
        for name in _RANGES:
            times = getattr(self, name)
            if not isinstance(times, list | tuple) or len(times) != 2:
                raise ValueError(f"{name} must be two times, got {shown(times)}")
            object.__setattr__(self, name, tuple(number(name, time) for time in times))

    def rows(self, denoiser: Denoiser, plan: Plan) -> FasterCacheRow:
        """The masks and the weights.

        Raises:
            ValueError: the run's times go from 0 to 1, and options are times beyond that.
        """
        times = plan.times if plan.times.ndim == 1 else plan.times[:, 0]
        for name in _RANGES:
            if times.max() <= 1 < max(ends := getattr(self, name)):
                raise ValueError(
                    f"{name} must be times from 0 to 1, as those of the run, which go from {times.max():g} "
                    f"to {times.min():g}, got {ends[0]:g} to {ends[1]:g}"
                )
        step = np.arange(len(times))

        def within(ends: tuple[float, float]) -> np.ndarray:
            return (ends[0] < times) & (times < ends[1])

        return FasterCacheRow(
            both=(step % self.both_every == 0) | ~within(self.both_within),
            attends=(step % self.attention_every == 0) | ~within(self.attention_within),
            weight=np.full(len(times), self.weight, np.float32),
            low=np.where(within(self.low_within), self.growth, 1.0).astype(np.float32),
            high=np.where(within(self.high_within), self.growth, 1.0).astype(np.float32),
        )

    def begin(self, step: Step) -> FasterCacheState:
        """No step.

        Raises:
            ValueError: the run is not guided, or the model has no attention.
        """
        if not step.guided:
            raise ValueError(
                "FasterCache is for guided runs, whose batches hold two conditions, but this one has no "
                "guidance"
            )
        first = _conditional(step)
        outputs = no_outputs(first, parts_named(step.denoiser, _KINDS))
        shape = jax.eval_shape(predict, first).shape
        none = jnp.zeros(shape, jnp.complex64)
        return FasterCacheState(outputs, zeros_like(outputs), none, none, jnp.array(False))

    def denoise(
        self, step: Step, row: FasterCacheRow, state: FasterCacheState
    ) -> tuple[Float[Array, "B H W C"], FasterCacheState, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        names, blocks = tuple(state.last), step.denoiser.num_blocks

        def one(state: FasterCacheState) -> tuple[Array, FasterCacheState, Array]:
            ahead = jax.tree.map(
                lambda last, before: last + (last - before) * row.weight, state.last, state.before
            )
            first = _conditional(step)
            prediction, outputs = lax.cond(
                row.attends,
                lambda: predict_recording(first, names),
                lambda: (
                    predict(first, lambda name, compute: ahead[name] if name in ahead else compute()),
                    ahead,
                ),
            )
            low, high = state.low * row.low, state.high * row.high
            spectrum = jnp.fft.fft2(prediction.astype(jnp.float32), axes=(1, 2)) + low + high
            other = jnp.fft.ifft2(spectrum, axes=(1, 2)).real.astype(prediction.dtype)
            state = replace(state, last=outputs, before=state.last, low=low, high=high)
            return jnp.concatenate([prediction, other]), state, jnp.float32(blocks / 2)

        def two(state: FasterCacheState) -> tuple[Array, FasterCacheState, Array]:
            prediction, outputs = predict_recording(step, names)
            outputs = jax.tree.map(lambda output: output[: len(output) // 2], outputs)
            conditional, other = jnp.split(prediction.astype(jnp.float32), 2)
            spectrum = jnp.fft.fft2(other - conditional, axes=(1, 2))
            is_low = _low(*spectrum.shape[1:3])
            before = jax.tree.map(lambda new, last: jnp.where(state.started, last, new), outputs, state.last)
            state = FasterCacheState(outputs, before, spectrum * is_low, spectrum * ~is_low, jnp.array(True))
            return prediction, state, jnp.float32(blocks)

        return lax.cond(row.both | ~state.started, two, one, state)


def _conditional(step: Step) -> Step:
    """The step of the first half of the batch: what is asked for, without what guidance leads away from."""
    rows = len(step.x)

    def first(leaf: Array) -> Array:
        return leaf[: rows // 2] if jnp.ndim(leaf) and len(leaf) == rows else leaf

    given, made = jax.tree.map(first, (step.given, step.made))
    return replace(step, x=step.x[: rows // 2], given=given, made=made, guided=False)


def _low(height: int, width: int) -> np.ndarray:
    """bool[H, W, 1], the frequencies that count as low: a disc around 0 of a fifth of the shorter side."""
    rows, columns = np.fft.fftfreq(height, 1 / height), np.fft.fftfreq(width, 1 / width)
    return (rows[:, None] ** 2 + columns**2 <= (min(height, width) // 5) ** 2)[..., None]


register_dataclass(
    FasterCache,
    [
        *("both_every", "both_within", "attention_every", "attention_within"),
        *("weight", "growth", "low_within", "high_within"),
    ],
    [],
)
