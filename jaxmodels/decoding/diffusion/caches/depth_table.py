"""Exits by a table: each step runs so many blocks, and the head behind the last of them."""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, shown
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.exit_heads import check_exits, exit_prediction
from jaxmodels.decoding.diffusion.caches.schedules import check_steps
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser, Streams
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, eq=False)
class DepthTable:
    """A `StepCache` that keeps nothing: a step runs the first few blocks, as many as a table says, and
    predicts by the head behind them (see `with_exits`).

    A reproduction of DeeDiff (https://arxiv.org/abs/2309.17074) found that its exits depend on the step far
    more than on the picture, which such a table states at no cost.

    Attributes:
        depths: i[N], how many blocks each step runs.

    Raises:
        ValueError: they are no whole numbers >= 1; when used, parameters without heads.
    """

    depths: Any

    def __post_init__(self) -> None:
        if is_traced(self.depths):
            return
        depths = np.asarray(self.depths)
        if depths.ndim != 1 or not depths.size or depths.dtype.kind not in "iu" or depths.min() < 1:
            raise ValueError(f"depths must be a whole number >= 1 for each step, got {shown(self.depths)}")
        object.__setattr__(self, "depths", depths.astype(np.int32))

    def rows(self, denoiser: Denoiser, plan: Plan) -> np.ndarray:
        """The table.

        Raises:
            ValueError: it is for another number of calls than the plan has, or for a deeper model.
        """
        check_steps("depths: the table", len(self.depths), plan.calls)
        if self.depths.max() > denoiser.num_blocks:
            raise ValueError(f"depths: the model has {denoiser.num_blocks} blocks, got {self.depths.max()}")
        return self.depths

    def begin(self, step: Step) -> None:
        """Nothing.

        Raises:
            ValueError: the parameters have no heads.
        """
        check_exits(step)

    def denoise(
        self, step: Step, row: Int[Array, ""], state: None
    ) -> tuple[Float[Array, "B H W C"], None, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        blocks = step.denoiser.num_blocks

        def behind(block: int, streams: Streams) -> Array:
            if block == blocks - 1:
                return step.finish(streams)

            def further(streams: Streams) -> Array:
                return behind(block + 1, step.run(streams, range(block + 1, block + 2)))

            return lax.cond(
                row > block + 1, further, lambda streams: exit_prediction(step, streams, block), streams
            )

        return behind(0, step.run(step.embed(), range(1))), None, jnp.float32(row)


register_dataclass(DepthTable, ["depths"], [])
