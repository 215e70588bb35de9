"""MeanFlow: the mean velocity between two times, learnt from its own slope."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import number
from jaxmodels.training.denoisers.flow_maps import FlowMapDraws, first, jump, slope_target
from jaxmodels.training.denoisers.objective import Pictures, Trained


@dataclass(frozen=True, kw_only=True)
class MeanFlow:
    """The squared error of the mean velocity, summed over an image and divided by itself (Geng et al. 2025,
    https://arxiv.org/abs/2505.13447, and its code).

    Attributes:
        draws: how points and times are drawn.
        floor: what is added to the error that is divided by.

    Raises:
        ValueError: `floor` is not positive.
    """

    draws: FlowMapDraws = field(default_factory=FlowMapDraws)
    floor: float = 0.01

    def __post_init__(self) -> None:
        number("MeanFlow: floor", self.floor, low=0, low_included=False)

    @property
    def times(self) -> int:
        return 2

    def loss(
        self, trained: Trained, pictures: Pictures, key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """See `DenoisingObjective.loss`."""
        points = self.draws.points(trained.predict, pictures, key)
        jumping = self.draws.jumping(len(points.t))
        target = jnp.concatenate(
            [slope_target(trained.predict, first(points, jumping)), points.velocity[jumping:]]
        )
        made = jump(trained.predict, points.x, points.t, points.r, points.classes)
        squares = jnp.square(made - jax.lax.stop_gradient(target))
        error = squares.sum((1, 2, 3))
        return (error / jax.lax.stop_gradient(error + self.floor)).mean(), squares.mean()

    def scheduler(self) -> dict[str, Any]:
        """A sampler of jaxmodels; `diffusers` has none for these."""
        return {"_class_name": "MeanFlowScheduler"}
