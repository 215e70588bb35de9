"""Guidance of the clean data alone."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmodels.decoding.diffusion.guidance.cfg import set_number
from jaxmodels.decoding.diffusion.guidance.guidance import Outputs, away
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class CFGPlusPlus:
    """The clean data are those of the guided output, but the noise that they get again is that of the
    unconditional one: CFG++ (Chung et al. 2024, https://arxiv.org/abs/2406.08070).

    Attributes:
        scale: of the guidance, from 0 to 1: it interpolates, where others extrapolate.

    Raises:
        ValueError: `scale` is outside its range.
    """

    scale: float

    def __post_init__(self) -> None:
        set_number(self, "scale", low=0.0, high=1.0)

    def rows(self, plan: Plan) -> np.ndarray:
        """The scale, for each call."""
        return np.full(plan.calls, self.scale)

    def __call__(self, outputs: Outputs, row: Float[Array, ""]) -> Predicted:
        """See `Guidance`. What is given starts from the canvas of this clean data and that noise."""
        conditional, unconditional = outputs.pair()
        guided = outputs.read(away(conditional, unconditional, row))
        clean, noise = guided.clean(), outputs.read(unconditional).noise()
        return Predicted(
            output=jnp.concatenate([clean, guided.extra()], axis=-1),
            x=outputs.alpha * clean + outputs.sigma * noise,
            alpha=outputs.alpha,
            sigma=outputs.sigma,
            kind=Prediction.CLEAN,
        )


register_dataclass(CFGPlusPlus, ["scale"], [])
