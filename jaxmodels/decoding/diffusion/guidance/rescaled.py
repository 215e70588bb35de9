"""Guidance that does not raise contrast."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.guidance.cfg import set_number
from jaxmodels.decoding.diffusion.guidance.guidance import Outputs, away
from jaxmodels.decoding.diffusion.prediction import Predicted
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class Rescaled:
    """`CFG`, brought back to the standard deviation of the conditional output (Lin et al. 2023, section 3.4,
    https://arxiv.org/abs/2305.08891).

    Attributes:
        scale: see `CFG`.
        rescale: the share of the rescaled output, from 0 to 1; the rest is the guided one.
        channels: see `CFG`.

    Raises:
        ValueError: a number outside its range.
    """

    scale: float
    rescale: float = 0.7
    channels: int | None = None

    def __post_init__(self) -> None:
        set_number(self, "scale")
        set_number(self, "rescale", low=0.0, high=1.0)
        if self.channels is not None:
            object.__setattr__(self, "channels", whole("channels", self.channels, low=1))

    def rows(self, plan: Plan) -> np.ndarray:
        """Scale and share, for each call."""
        return np.tile([self.scale, self.rescale], (plan.calls, 1))

    def __call__(self, outputs: Outputs, row: Float[Array, "2"]) -> Predicted:
        """See `Guidance`."""
        conditional, unconditional = outputs.pair(self.channels)
        guided = away(conditional, unconditional, row[0])
        ratio = _deviation(conditional) / _deviation(guided)
        return outputs.read(guided * (row[1] * ratio + 1 - row[1]))


def _deviation(output: Float[Array, "B H W K"]) -> Float[Array, "B 1 1 1"]:
    return jnp.std(output, axis=(1, 2, 3), keepdims=True, ddof=1)


register_dataclass(Rescaled, ["scale", "rescale"], ["channels"])
