"""SeaCache: a step is computed when the clean part of the canvas has changed enough."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, number, whole
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.residuals import added, nothing_added, residual
from jaxmodels.decoding.diffusion.caches.schedules import check_within
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser, Streams
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class SeaCacheRow:
    """A step of `SeaCache`.

    Attributes:
        number: i32[], the step's.
        forced: bool[], whether it is computed whatever the canvas shows.
        signal, noise: f32[], of ``x = signal * clean + noise * unit noise``, as the model is shown it.
        threshold: f32[].
        most_in_a_row: i32[].
        power: f32[].
    """

    number: Any
    forced: Any
    signal: Any
    noise: Any
    threshold: Any
    most_in_a_row: Any
    power: Any


@struct.dataclass
class SeaCacheState:
    """What is kept from step to step.

    Attributes:
        clean: [B, H, W, C], the clean part of the last step's canvas.
        summed: f32[], its changes since the last computed step.
        in_a_row: i32[], how many steps ago that was.
        computed: i32[], how many steps were computed so far.
        numbers: i32[2], the numbers of the last computed step and of the one before it.
        kept: the residual of all blocks in the last computed step.
        before: [B, S, D], of that in the one before it: what it added to the stream.
    """

    clean: jax.Array
    summed: jax.Array
    in_a_row: jax.Array
    computed: jax.Array
    numbers: jax.Array
    kept: Streams
    before: jax.Array


@dataclass(frozen=True, eq=False)
class SeaCache:
    """A `StepCache` that sums how much the clean part of the canvas changes from step to step, as a Wiener
    filter for images finds it, and computes a step when the sum reaches a threshold
    (https://arxiv.org/abs/2602.18993). Elsewhere the blocks add the residual that they had last, gone on
    along a line. As `SeaCacheConfig` of `diffusers` does for videos.

    Attributes:
        threshold: the sum at which a step is computed; 0 to compute all.
        warmup, cooldown: so many steps are computed first and last.
        most_in_a_row: the most steps that are left out one after the other; 0 for any number.
        power: the power of the frequency by which the strength of images falls.

    Raises:
        ValueError: an option outside its range; when used, `warmup` and `cooldown` longer than the run.
    """

    threshold: float = 0.25
    warmup: int = 1
    cooldown: int = 1
    most_in_a_row: int = 2
    power: float = 3.0

    def __post_init__(self) -> None:
        if is_traced(self.threshold):
            return
        object.__setattr__(self, "threshold", number("threshold", self.threshold, low=0.0))
        for name, low in {"warmup": 1, "cooldown": 0, "most_in_a_row": 0}.items():
            object.__setattr__(self, name, whole(name, getattr(self, name), low=low))
        object.__setattr__(self, "power", number("power", self.power, low=0.0, low_included=False))

    def rows(self, denoiser: Denoiser, plan: Plan) -> SeaCacheRow:
        """Levels of noise and thresholds.

        Raises:
            ValueError: `warmup` and `cooldown` are longer than the run.
        """
        calls = plan.calls
        check_within("warmup + cooldown", self.warmup + self.cooldown, calls)
        step, ends = np.arange(calls), 1e-6  # a filter for no noise at all divides by nothing
        most = self.most_in_a_row or calls

        def level(values: np.ndarray) -> np.ndarray:
            return np.clip(values * plan.input_scale, ends, 1 - ends).astype(np.float32)

        return SeaCacheRow(
            number=step.astype(np.int32),
            forced=(step < self.warmup) | (step >= calls - self.cooldown),
            signal=level(plan.alpha),
            noise=level(plan.sigma),
            threshold=np.full(calls, self.threshold, np.float32),
            most_in_a_row=np.full(calls, most, np.int32),
            power=np.full(calls, self.power, np.float32),
        )

    def begin(self, step: Step) -> SeaCacheState:
        """No step."""
        kept = nothing_added(step, range(step.denoiser.num_blocks))
        zero = jnp.array(0, jnp.int32)
        return SeaCacheState(
            clean=jnp.zeros(step.x.shape, jnp.float32),
            summed=jnp.float32(0),
            in_a_row=zero,
            computed=zero,
            numbers=jnp.zeros(2, jnp.int32),
            kept=kept,
            before=jnp.zeros_like(kept.hidden),
        )

    def denoise(
        self, step: Step, row: SeaCacheRow, state: SeaCacheState
    ) -> tuple[Float[Array, "B H W C"], SeaCacheState, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        clean = clean_part(step.x, row.signal, row.noise, row.power)
        summed = state.summed + _change(clean, state.clean)
        fresh = row.forced | (state.in_a_row >= row.most_in_a_row) | ~(summed < row.threshold)
        blocks, before = range(step.denoiser.num_blocks), step.embed()

        def run(state: SeaCacheState) -> tuple[Streams, SeaCacheState]:
            after = step.run(before, blocks)
            return after, replace(
                state,
                summed=jnp.zeros_like(summed),
                in_a_row=jnp.zeros_like(state.in_a_row),
                computed=state.computed + 1,
                numbers=jnp.stack([row.number, state.numbers[0]]),
                kept=residual(before, after),
                before=state.kept.hidden,
            )

        def add(state: SeaCacheState) -> tuple[Streams, SeaCacheState]:
            ahead = (row.number - state.numbers[0]) / (state.numbers[0] - state.numbers[1])
            slope = jnp.where(state.computed > 1, ahead, 0.0).astype(before.hidden.dtype)
            hidden = state.kept.hidden + slope * (state.kept.hidden - state.before)
            after = added(before, replace(state.kept, hidden=hidden))
            return after, replace(state, summed=summed, in_a_row=state.in_a_row + 1)

        streams, state = lax.cond(fresh, run, add, state)
        computed = jnp.where(fresh, float(len(blocks)), 0.0)
        return step.finish(streams), replace(state, clean=clean), computed


def clean_part(
    x: Float[Array, "B H W C"], signal: Array, noise: Array, power: Array
) -> Float[Array, "B H W C"]:
    """What a Wiener filter takes for clean in canvases at this level of noise, the strength of images
    falling with a power of the frequency along each axis; scaled to a mean gain of 1, so that steps can be
    compared."""
    _, height, width, _ = x.shape

    def gain(size: int) -> Array:
        strength = 1 / (jnp.abs(jnp.fft.fftfreq(size)) ** power + 1e-16)
        return signal * strength / (signal**2 * strength + noise**2 + 1e-16)

    both = gain(height)[:, None] * gain(width)
    spectrum = jnp.fft.fft2(x.astype(jnp.float32), axes=(1, 2))
    return jnp.fft.ifft2(spectrum * (both / both.mean())[..., None], axes=(1, 2)).real


def _change(now: Float[Array, "B H W C"], before: Float[Array, "B H W C"]) -> Float[Array, ""]:
    """The mean over rows of how much each has changed."""
    axes = (1, 2, 3)
    return (jnp.abs(now - before).mean(axes) / (jnp.abs(before).mean(axes) + 1e-16)).mean()


register_dataclass(SeaCache, ["threshold", "warmup", "cooldown", "most_in_a_row", "power"], [])
