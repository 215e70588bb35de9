"""First-block cache: a step is computed where the first block does something else than before."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, number
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.changes import change, middle, run_front
from jaxmodels.decoding.diffusion.caches.residuals import nothing_added, run_or_add, zeros_like
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser, Streams
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class FirstBlockState:
    """What is kept of the last computed step.

    Attributes:
        started: bool[], whether there was one.
        signal: [B, S, D], what its first block added to the stream.
        kept: what the other blocks added.
    """

    started: jax.Array
    signal: jax.Array
    kept: Streams


@dataclass(frozen=True, eq=False)
class FirstBlock:
    """A `StepCache` that runs the first block in every step, and the others where its residual has changed
    since the last step in which they ran; elsewhere they add what they added then. As
    `FirstBlockCacheConfig` of `diffusers` (https://github.com/chengzeyi/ParaAttention).

    Attributes:
        threshold: the others are run where the change is greater, see `change`; -1 to run them always.

    Raises:
        ValueError: `threshold` is below -1 or no number; when used, the model has one block.
    """

    threshold: float = 0.05

    def __post_init__(self) -> None:
        if not is_traced(self.threshold):
            object.__setattr__(self, "threshold", number("threshold", self.threshold, low=-1.0))

    def rows(self, denoiser: Denoiser, plan: Plan) -> np.ndarray:
        """The threshold, for each step."""
        return np.full(plan.calls, self.threshold, np.float32)

    def begin(self, step: Step) -> FirstBlockState:
        """No step."""
        kept = nothing_added(step, middle(step, 1))
        signal = zeros_like(jax.eval_shape(lambda step: run_front(step, 1)[1], step))
        return FirstBlockState(jnp.array(False), signal, kept)

    def denoise(
        self, step: Step, row: Float[Array, ""], state: FirstBlockState
    ) -> tuple[Float[Array, "B H W C"], FirstBlockState, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        behind, signal = run_front(step, 1)
        fresh = ~state.started | (change(signal, state.signal) > row)
        others = middle(step, 1)
        streams, kept = run_or_add(step, behind, others, fresh, state.kept)
        signal = jnp.where(fresh, signal, state.signal)
        state = FirstBlockState(jnp.array(True), signal, kept)
        return step.finish(streams), state, 1.0 + jnp.where(fresh, float(len(others)), 0.0)


register_dataclass(FirstBlock, ["threshold"], [])
