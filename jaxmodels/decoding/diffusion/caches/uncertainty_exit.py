"""Exits by uncertainty: a step runs blocks until the heads behind them are sure enough (DeeDiff)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import is_traced, number
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.exit_heads import check_exits, exit_prediction, uncertainty
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser, Streams
from jaxmodels.pytrees import register_dataclass

# A prediction and how many blocks ran.
Exit = tuple[Float[Array, "B H W C"], Float[Array, ""]]


@dataclass(frozen=True, eq=False)
class UncertaintyExit:
    """A `StepCache` that keeps nothing: each row takes the prediction of the first head that is sure of it,
    and a step ends when all rows have one (https://arxiv.org/abs/2309.17074; see `with_exits`).

    Attributes:
        threshold: a head is sure where its uncertainty is below; 0 for no exit.

    Raises:
        ValueError: `threshold` is not from 0 to 1; when used, parameters without heads.
    """

    threshold: float = 0.05

    def __post_init__(self) -> None:
        if not is_traced(self.threshold):
            object.__setattr__(self, "threshold", number("threshold", self.threshold, low=0.0, high=1.0))

    def rows(self, denoiser: Denoiser, plan: Plan) -> np.ndarray:
        """The threshold, for each step."""
        return np.full(plan.calls, self.threshold, np.float32)

    def begin(self, step: Step) -> None:
        """Nothing.

        Raises:
            ValueError: the parameters have no heads.
        """
        check_exits(step)

    def denoise(
        self, step: Step, row: Float[Array, ""], state: None
    ) -> tuple[Float[Array, "B H W C"], None, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        blocks, batch = step.denoiser.num_blocks, step.x.shape[0]

        def behind(block: int, streams: Streams, done: Bool[Array, "B"], found: Array) -> Exit:
            if block == blocks - 1:
                return jnp.where(_each(done), found, step.finish(streams)), jnp.float32(blocks)
            sure = ~done & (uncertainty(step, streams, block) < row)
            found = lax.cond(
                sure.any(),
                lambda: jnp.where(_each(sure), exit_prediction(step, streams, block), found),
                lambda: found,
            )
            done = done | sure

            def further(streams: Streams, done: Bool[Array, "B"], found: Array) -> Exit:
                return behind(block + 1, step.run(streams, range(block + 1, block + 2)), done, found)

            def ends(streams: Streams, done: Bool[Array, "B"], found: Array) -> Exit:
                return found, jnp.float32(block + 1)

            return lax.cond(done.all(), ends, further, streams, done, found)

        streams = step.run(step.embed(), range(1))
        shape = jax.eval_shape(step.finish, streams)
        none = jnp.zeros(shape.shape, shape.dtype)
        prediction, computed = behind(0, streams, jnp.zeros(batch, bool), none)
        return prediction, None, computed


def _each(rows: Bool[Array, "B"]) -> Bool[Array, "B 1 1 1"]:
    return rows[:, None, None, None]


register_dataclass(UncertaintyExit, ["threshold"], [])
