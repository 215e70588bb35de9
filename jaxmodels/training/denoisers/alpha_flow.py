"""alpha-Flow: mean velocities learnt from straight paths, then from shorter steps, at last from slopes."""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.checks import number
from jaxmodels.training.denoisers.flow_maps import FlowMapDraws, PathPoints, first, jump, slope_target
from jaxmodels.training.denoisers.objective import Pictures, Predict, Trained, along

# Of the published code: shares nearer to 0 or 1 than this are taken to be that.
_NEAR = 0.005


@dataclass(frozen=True, kw_only=True)
class AlphaFlow:
    """The error of the mean velocity against ``alpha * v + (1 - alpha) * u(x - alpha * (t - r) * v)``, where
    u leads on from the point that the first share of the step reaches (Zhang et al. 2025,
    https://arxiv.org/abs/2510.20771, and its code).

    With alpha = 1 that is flow matching, towards 0 MeanFlow. alpha falls as a logistic curve.

    Attributes:
        draws: how points and times are drawn.
        begins, ends: shares of the run between which alpha falls.
        steepness: of the curve.
        most: bound on what is aimed at.
        floor: what is added to the error that is divided by.

    Raises:
        ValueError: a number is out of range.
    """

    draws: FlowMapDraws = field(default_factory=FlowMapDraws)
    begins: float = 0.0
    ends: float = 1.0
    steepness: float = 25.0
    most: float = 4.0
    floor: float = 0.001

    def __post_init__(self) -> None:
        for name in ("begins", "ends"):
            number(f"AlphaFlow: {name}", getattr(self, name), low=0, high=1)
        for name in ("steepness", "most", "floor"):
            number(f"AlphaFlow: {name}", getattr(self, name), low=0, low_included=False)
        if self.begins >= self.ends:
            raise ValueError(f"AlphaFlow: begins={self.begins} must be below ends={self.ends}")

    @property
    def times(self) -> int:
        return 2

    def alpha(self, progress: Float[Array, ""]) -> Float[Array, ""]:
        """The share of a step that goes along the straight path."""
        place = (progress - self.begins) / (self.ends - self.begins)
        share = jax.nn.sigmoid(-self.steepness * (place - 0.5))
        return jnp.where(share < _NEAR, 0.0, jnp.where(share > 1 - _NEAR, 1.0, share))

    def loss(
        self, trained: Trained, pictures: Pictures, key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """See `DenoisingObjective.loss`."""
        points = self.draws.points(trained.predict, pictures, key)
        jumping, alpha = self.draws.jumping(len(points.t)), self.alpha(trained.progress)
        far = first(points, jumping)
        aimed = jax.lax.cond(
            alpha > 0,
            lambda: step_target(trained.predict, far, alpha),
            lambda: slope_target(trained.predict, far),
        )
        target = jnp.concatenate([jnp.clip(aimed, -self.most, self.most), points.velocity[jumping:]])
        made = jump(trained.predict, points.x, points.t, points.r, points.classes)
        error = jnp.square(made - jax.lax.stop_gradient(target)).mean((1, 2, 3))
        stepped = (jnp.arange(len(points.t)) < jumping) & (alpha > 0)
        weight = jnp.where(stepped, alpha, 1.0) / jax.lax.stop_gradient(error + self.floor)
        return (weight * error).mean(), error.mean()

    def scheduler(self) -> dict[str, Any]:
        """A sampler of jaxmodels; `diffusers` has none for these."""
        return {"_class_name": "MeanFlowScheduler"}


def step_target(predict: Predict, points: PathPoints, alpha: Float[Array, ""]) -> Float[Array, "B H W C"]:
    """The mean velocity of going a share `alpha` of the step along the straight path, and on by the model."""
    along_path = alpha * (points.t - points.r)
    between = points.x - along(along_path, points.x) * points.velocity
    rest = jump(predict, between, points.t - along_path, points.r, points.classes)
    return alpha * points.velocity + (1 - alpha) * rest
