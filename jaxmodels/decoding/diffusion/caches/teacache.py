"""TeaCache: changes are mapped by a polynomial and summed until they are worth a computed step."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, number, shown
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.changes import change, middle, run_front
from jaxmodels.decoding.diffusion.caches.residuals import nothing_added, run_or_add, zeros_like
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser, Streams
from jaxmodels.pytrees import register_dataclass

# Of FLUX.1 (https://github.com/ali-vilab/TeaCache), the highest power first.
FLUX_COEFFICIENTS = (498.651651, -283.781631, 55.8554382, -3.82021401, 0.264230861)


@struct.dataclass
class TeaCacheRow:
    """A step of `TeaCache`.

    Attributes:
        forced: bool[], whether all blocks are run whatever the signal says.
        threshold: f32[].
        coefficients: f32[K], the highest power first.
    """

    forced: Any
    threshold: Any
    coefficients: Any


@struct.dataclass
class TeaCacheState:
    """What is kept from step to step.

    Attributes:
        signal: [B, S, D], what the first block added to the stream in the last step.
        summed: f32[], the changes since the other blocks last ran.
        kept: what they added then.
    """

    signal: jax.Array
    summed: jax.Array
    kept: Streams


@dataclass(frozen=True, eq=False)
class TeaCache:
    """A `StepCache` that runs the first block in every step and sums how much it changes from one to the
    next, each change mapped by a polynomial; the other blocks are run when the sum reaches a threshold
    (https://arxiv.org/abs/2411.19108).

    The published code compares what stands in front of the first block's attention, which models call by
    many names; this compares what the first block adds, as `FirstBlock` does. Coefficients are fitted to one
    or the other. The first and the last step are computed, as published.

    Attributes:
        threshold: the sum at which the other blocks are run; 0 to run them always.
        coefficients: of the polynomial, the highest power first: (1, 0) leaves changes as they are.

    Raises:
        ValueError: an option outside its range; when used, the model has one block.
    """

    threshold: float = 0.25
    coefficients: tuple[float, ...] = (1.0, 0.0)

    def __post_init__(self) -> None:
        if is_traced(self.threshold):
            return
        object.__setattr__(self, "threshold", number("threshold", self.threshold, low=0.0))
        if not isinstance(self.coefficients, list | tuple) or not self.coefficients:
            raise ValueError(f"coefficients must be numbers, got {shown(self.coefficients)}")
        coefficients = (number(f"coefficients[{i}]", value) for i, value in enumerate(self.coefficients))
        object.__setattr__(self, "coefficients", tuple(coefficients))

    def rows(self, denoiser: Denoiser, plan: Plan) -> TeaCacheRow:
        """Threshold and coefficients."""
        steps = plan.calls
        return TeaCacheRow(
            forced=np.isin(np.arange(steps), (0, steps - 1)),
            threshold=np.full(steps, self.threshold, np.float32),
            coefficients=np.tile(np.asarray(self.coefficients, np.float32), (steps, 1)),
        )

    def begin(self, step: Step) -> TeaCacheState:
        """No step."""
        kept = nothing_added(step, middle(step, 1))
        signal = zeros_like(jax.eval_shape(lambda step: run_front(step, 1)[1], step))
        return TeaCacheState(signal, jnp.float32(0), kept)

    def denoise(
        self, step: Step, row: TeaCacheRow, state: TeaCacheState
    ) -> tuple[Float[Array, "B H W C"], TeaCacheState, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        behind, signal = run_front(step, 1)
        summed = state.summed + jnp.polyval(row.coefficients, change(signal, state.signal))
        fresh = row.forced | (summed >= row.threshold)
        others = middle(step, 1)
        streams, kept = run_or_add(step, behind, others, fresh, state.kept)
        state = TeaCacheState(signal, jnp.where(fresh, 0.0, summed), kept)
        return step.finish(streams), state, 1.0 + jnp.where(fresh, float(len(others)), 0.0)


register_dataclass(TeaCache, ["threshold", "coefficients"], [])
