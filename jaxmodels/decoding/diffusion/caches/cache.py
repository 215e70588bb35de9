"""What every cache of denoising steps answers to, and the policy that keeps nothing."""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.layers.spec import Params
from jaxmodels.models.denoisers.denoiser import Denoiser, Streams
from jaxmodels.models.modules import COMPUTE, Modules
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Step:
    """One call of a denoiser, stage by stage.

    Attributes:
        params: the denoiser's parameters.
        x: [B, H, W, C], the canvases as the model is shown them.
        given: what `read` made of the condition.
        made: what `conditions` made of it and the time.
        denoiser: the denoiser.
        guided: whether the rows are of two conditions, ``[condition | unconditional]``.
    """

    params: Params
    x: jax.Array
    given: Any
    made: Any
    denoiser: Denoiser = struct.field(pytree_node=False)
    guided: bool = struct.field(pytree_node=False, default=False)

    def embed(self) -> Streams:
        """The streams in front of the first block."""
        return self.denoiser.embed(self.params, self.x, self.given)

    def run(self, streams: Streams, blocks: range, modules: Modules = COMPUTE) -> Streams:
        """The streams behind these blocks."""
        return self.denoiser.run(self.params, streams, self.made, self.given, blocks, modules)

    def finish(self, streams: Streams) -> Float[Array, "B H W O"]:
        """The prediction, from the streams behind the last block."""
        _, height, width, _ = self.x.shape
        return self.denoiser.finish(self.params, streams, self.made, height, width)


class StepCache(Protocol):
    """What a run keeps of its steps, and which work of later ones that saves.

    Implementations are frozen dataclasses and pytrees: what a program is traced for is static, masks and
    thresholds are leaves, and other ones run the same program.
    """

    def rows(self, denoiser: Denoiser, plan: Plan) -> Any:
        """What `denoise` is told about each call, made on the host: a pytree of arrays [N, ...].

        Raises:
            ValueError: the cache is made for another number of calls, or for another model.
        """

    def begin(self, step: Step) -> Any:
        """What is kept before the first step: a pytree of arrays.

        Args:
            step: a step of the run, of which only shapes are looked at.

        Raises:
            ValueError: the cache does not fit the model.
        """

    def denoise(
        self, step: Step, row: Any, state: Any
    ) -> tuple[Float[Array, "B H W O"], Any, Float[Array, ""]]:
        """The prediction of a step, what is kept behind it, and how many blocks were computed.

        Args:
            step: the step.
            row: this step's row of `rows`.
            state: what `begin` or the last step gave.
        """


@dataclass(frozen=True)
class NoCache:
    """A `StepCache` that keeps nothing and computes all."""

    def rows(self, denoiser: Denoiser, plan: Plan) -> None:
        """Nothing."""

    def begin(self, step: Step) -> None:
        """Nothing."""

    def denoise(
        self, step: Step, row: None, state: None
    ) -> tuple[Float[Array, "B H W O"], None, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        blocks = step.denoiser.num_blocks
        return step.finish(step.run(step.embed(), range(blocks))), None, jnp.float32(blocks)


register_dataclass(NoCache, [], [])
