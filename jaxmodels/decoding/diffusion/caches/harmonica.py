"""HarmoniCa: a trained router says which parts of which steps are computed."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import is_traced, number, shown
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.outputs import (
    Outputs,
    block_parts,
    no_outputs,
    predict_choosing,
)
from jaxmodels.decoding.diffusion.caches.schedules import check_steps
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, eq=False)
class HarmoniCa:
    """A `StepCache` that computes the parts of blocks for which a router of steps and parts is above a
    threshold, and repeats the last outputs of the others (https://arxiv.org/abs/2410.01723).

    `jaxmodels.decoding.diffusion.caches.harmonica_training` trains the router.

    Attributes:
        router: f[N, M], a logit for each step and part, in the order of the run and of the model's
            `block_parts`. Of the first step all parts are computed, whatever it says.
        threshold: a part is computed where the logit's sigmoid is above it.

    Raises:
        ValueError: an option outside its range.
    """

    router: Any
    threshold: float = 0.1

    def __post_init__(self) -> None:
        if is_traced(self.threshold):
            return
        router = np.asarray(self.router)
        if router.ndim != 2 or not router.size or router.dtype.kind != "f" or not np.isfinite(router).all():
            raise ValueError(
                f"router must be finite numbers, one for each step and part, got {shown(self.router)}"
            )
        object.__setattr__(self, "router", router)
        object.__setattr__(self, "threshold", number("threshold", self.threshold, low=0.0, high=1.0))

    def rows(self, denoiser: Denoiser, plan: Plan) -> np.ndarray:
        """bool[N, M], which parts of which steps are computed.

        Raises:
            ValueError: the router was trained for another number of steps, or for another model.
        """
        check_steps("router: it", len(self.router), plan.calls)
        names = block_parts(denoiser)
        if self.router.shape[1] != len(names):
            raise ValueError(
                f"router is made for {self.router.shape[1]} parts of blocks, but the model has {len(names)}"
            )
        return routed(self.router, self.threshold)

    def begin(self, step: Step) -> Outputs:
        """No outputs."""
        return no_outputs(step, block_parts(step.denoiser))

    def denoise(
        self, step: Step, row: Bool[Array, "M"], state: Outputs
    ) -> tuple[Float[Array, "B H W C"], Outputs, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        names = block_parts(step.denoiser)
        return predict_choosing(step, dict(zip(names, row, strict=True)), state)


def routed(router: np.ndarray, threshold: float) -> np.ndarray:
    """bool[N, M], which parts of which steps a router computes."""
    mask = 1 / (1 + np.exp(-np.asarray(router, np.float64))) > threshold
    mask[0] = True
    return mask


register_dataclass(HarmoniCa, ["router", "threshold"], [])
