"""DualFast: any sampler, with predicted noise that is led away from a noisier canvas's."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import number
from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction
from jaxmodels.decoding.diffusion.samplers.sampler import Plan, Sampler


class EarlierNoise(StrEnum):
    """Whose predicted noise a prediction is led away from."""

    FIRST = "first"  # that of the first call
    LAST = "last"  # that of the call before


@struct.dataclass
class Row:
    """A row of the sampler within, and how far the noise is corrected at the call."""

    within: Any
    strength: np.ndarray


@dataclass(frozen=True, kw_only=True)
class DualFast:
    """Another sampler, told ``eps + c * (eps - eps_earlier)`` in place of the predicted noise `eps`.

    Yu et al. 2025 tell the error of a model apart from that of large steps. The model's error is smaller at
    noisier canvases, and predictions at one, which cost nothing where they have been made anyway, correct
    later ones. This much is stated where we could read it. Inferred are the form of the sum, which the paper
    gives for no coefficients that we know of; that the noise is the first call's or the last one's; and that
    `c` is the same at all calls. The first call has no earlier one and is not corrected. `strength` 0 is the
    sampler within.

    Attributes:
        within: the sampler.
        strength: c, >= 0.
        earlier: whose noise is led away from.

    Raises:
        ValueError: `strength` is out of range.
    """

    within: Sampler
    strength: float = 0.1
    earlier: EarlierNoise = EarlierNoise.LAST

    def __post_init__(self) -> None:
        object.__setattr__(self, "earlier", EarlierNoise(self.earlier))
        number("strength", self.strength, low=0.0)

    @property
    def prediction(self) -> Prediction:
        """That of the sampler within."""
        return self.within.prediction

    def plan(self, steps: int, tokens: int = 0) -> Plan:
        plan = self.within.plan(steps, tokens)
        strength = np.full(plan.calls, self.strength)
        strength[0] = 0.0
        return Plan(
            times=plan.times,
            input_scale=plan.input_scale,
            alpha=plan.alpha,
            sigma=plan.sigma,
            rows=Row(within=plan.rows, strength=strength),
            start=plan.start,
            draws=plan.draws,
        )

    def begin(self, x: Float[Array, "B H W C"]) -> tuple[Any, Float[Array, "B H W C"], Float[Array, ""]]:
        return self.within.begin(x), jnp.zeros_like(x), jnp.float32(0)

    def step(
        self,
        predicted: Predicted,
        row: Row,
        memory: tuple[Any, Float[Array, "B H W C"], Float[Array, ""]],
        noise: Float[Array, "B H W C"] | None,
    ) -> tuple[Float[Array, "B H W C"], tuple[Any, Float[Array, "B H W C"], Float[Array, ""]]]:
        within, earlier, seen = memory
        made = predicted.noise()
        corrected = Predicted(
            made + row.strength * (made - earlier),
            predicted.x,
            predicted.alpha,
            predicted.sigma,
            Prediction.EPSILON,
        )
        x, within = self.within.step(corrected, row.within, within, noise)
        keeps = (seen > 0) & (self.earlier is EarlierNoise.FIRST)
        return x, (within, jnp.where(keeps, earlier, made), jnp.float32(1))
