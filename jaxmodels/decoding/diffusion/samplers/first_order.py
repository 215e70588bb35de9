"""Steps from one noise level to another by what is predicted at the first, which most samplers are made
of."""

from dataclasses import dataclass

import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.decoding.diffusion.prediction import Predicted
from jaxmodels.decoding.diffusion.samplers.bounds import Bound


@struct.dataclass
class Level:
    """Where a step ends: the factors of the clean data, of the predicted noise and of fresh noise."""

    alpha: np.ndarray
    sigma: np.ndarray
    fresh: np.ndarray


@dataclass(frozen=True, kw_only=True)
class FirstOrder:
    """A sampler without a memory, whose plan's rows are the levels that its steps end at.

    Attributes:
        bound: what the clean data are held to, None for as they are. The predicted noise is not computed
            again from what was held.
    """

    bound: Bound | None = None

    def begin(self, x: Float[Array, "B H W C"]) -> tuple[()]:
        return ()

    def step(
        self, predicted: Predicted, row: Level, memory: tuple[()], noise: Float[Array, "B H W C"] | None
    ) -> tuple[Float[Array, "B H W C"], tuple[()]]:
        clean = predicted.clean() if self.bound is None else self.bound(predicted.clean())
        x = row.alpha * clean + row.sigma * predicted.noise()
        return (x if noise is None else x + row.fresh * noise), memory
