"""A denoiser that is spoken to in other units than its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float, Num

from jaxmodels.layers.spec import Params, ParamTree
from jaxmodels.models.denoisers.denoiser import Denoiser, InStages, StagedBlock, Streams
from jaxmodels.models.denoisers.patch_projections import PatchProjections
from jaxmodels.models.modules import COMPUTE, Modules


@dataclass(frozen=True, kw_only=True)
class Adapted(InStages):
    """A denoiser with the same parameters, whose times and predictions are scaled.

    Pipelines differ in this: Flux is shown a thousandth of the training step, Sana a multiple that its
    configuration names, and HiDream predicts the velocity with its sign turned.

    Attributes:
        denoiser: the model.
        time_scale: its times are this times those that it is called with.
        prediction_scale: what its predictions are multiplied by.
    """

    denoiser: Denoiser
    time_scale: float = 1.0
    prediction_scale: float = 1.0

    @property
    def family(self) -> str | None:
        return self.denoiser.family

    @property
    def projections(self) -> PatchProjections:
        return self.denoiser.projections

    @property
    def sample_size(self) -> int:
        """That of the denoiser."""
        return self.denoiser.sample_size

    @property
    def num_times(self) -> int:
        return self.denoiser.num_times

    def spec(self) -> ParamTree:
        return self.denoiser.spec()

    def named_blocks(self) -> Mapping[str, StagedBlock]:
        return self.denoiser.named_blocks()

    def check(self, x: Array, t: Array, condition: Any) -> None:
        self.denoiser.check(x, t, condition)

    def abstract_condition(self, batch: int, tokens: int) -> Any:
        return self.denoiser.abstract_condition(batch, tokens)

    def read(self, params: Params, condition: Any) -> Any:
        return self.denoiser.read(params, condition)

    def conditions(self, params: Params, t: Num[Array, "B ..."], given: Any) -> Any:
        return self.denoiser.conditions(params, t * self.time_scale, given)

    def embed(self, params: Params, x: Float[Array, "B H W C"], given: Any) -> Streams:
        return self.denoiser.embed(params, x, given)

    def run(
        self,
        params: Params,
        streams: Streams,
        made: Any,
        given: Any,
        blocks: range,
        modules: Modules = COMPUTE,
    ) -> Streams:
        return self.denoiser.run(params, streams, made, given, blocks, modules)

    def finish(
        self, params: Params, streams: Streams, made: Any, height: int, width: int
    ) -> Float[Array, "B H W O"]:
        prediction: jax.Array = self.denoiser.finish(params, streams, made, height, width)
        return prediction * self.prediction_scale
