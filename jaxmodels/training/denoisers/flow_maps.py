"""What objectives of mean velocities share: pairs of times, points on the path, guided velocities."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number
from jaxmodels.training.denoisers.flow_matching import logit_normal
from jaxmodels.training.denoisers.objective import Pictures, Predict, along, drop_classes


@struct.dataclass
class PathPoints:
    """Points ``(1 - t) * clean + t * noise`` from which a model is to jump to time r.

    Attributes:
        x: f32[B, H, W, C].
        t, r: f32[B], r <= t.
        velocity: f32[B, H, W, C], noise - clean, guided towards the class.
        classes: i32[B].
    """

    x: jax.Array
    t: jax.Array
    r: jax.Array
    velocity: jax.Array
    classes: jax.Array


@dataclass(frozen=True, kw_only=True)
class FlowMapDraws:
    """How points and times are drawn (Geng et al. 2025, https://arxiv.org/abs/2505.13447, and its code).

    Guided velocities are ``w * v + (1 - w - k) * u(none) + k * u(class)``, where u is what the model says of
    steps of length 0: what is trained then draws guided images with one evaluation a step.

    Attributes:
        mean, deviation: of the log odds of both times.
        jumps: share of the images whose two times differ. They are the first of a batch.
        guidance: w.
        mixed: k.
        guided_from, guided_to: times between which velocities are guided.
        class_dropout: share of the images whose class is not shown, and whose velocity is not guided.

    Raises:
        ValueError: a number is out of range.
    """

    mean: float = -0.4
    deviation: float = 1.0
    jumps: float = 0.25
    guidance: float = 1.0
    mixed: float = 0.0
    guided_from: float = 0.0
    guided_to: float = 1.0
    class_dropout: float = 0.1

    def __post_init__(self) -> None:
        number("FlowMapDraws: mean", self.mean)
        number("FlowMapDraws: deviation", self.deviation, low=0, low_included=False)
        for name in ("guidance", "mixed"):
            number(f"FlowMapDraws: {name}", getattr(self, name), low=0)
        for name in ("jumps", "guided_from", "guided_to", "class_dropout"):
            number(f"FlowMapDraws: {name}", getattr(self, name), low=0, high=1)

    def jumping(self, batch: int) -> int:
        """How many images of a batch have two times, at least one."""
        return max(round(batch * self.jumps), 1)

    def points(self, predict: Predict, pictures: Pictures, key: Array) -> PathPoints:
        """Drawn points, none of which the parameters of `predict` are differentiated through."""
        keys = jax.random.split(key, 3)
        images, batch = pictures.images, len(pictures.images)
        times = logit_normal(jax.random.uniform(keys[0], (2, batch)), self.mean, self.deviation)
        t = times.max(0)
        r = jnp.where(jnp.arange(batch) < self.jumping(batch), times.min(0), t)
        noise = jax.random.normal(keys[1], images.shape)
        x = (1 - along(t, images)) * images + along(t, images) * noise
        classes = drop_classes(pictures.classes, self.class_dropout, predict.num_classes, keys[2])
        velocity = noise - images
        if self.guidance != 1:
            guided = (classes != predict.num_classes) & (t >= self.guided_from) & (t <= self.guided_to)
            velocity = jnp.where(along(guided, x), self._guided(predict, x, t, velocity, classes), velocity)
        return PathPoints(x=x, t=t, r=r, velocity=jax.lax.stop_gradient(velocity), classes=classes)

    def _guided(self, predict: Predict, x: Array, t: Array, velocity: Array, classes: Array) -> Array:
        none = jnp.full_like(classes, predict.num_classes)
        made = self.guidance * velocity + (1 - self.guidance - self.mixed) * jump(predict, x, t, t, none)
        return made + self.mixed * jump(predict, x, t, t, classes) if self.mixed else made


def jump(
    predict: Predict,
    x: Float[Array, "B H W C"],
    t: Float[Array, "B"],
    r: Float[Array, "B"],
    classes: Int[Array, "B"],
) -> Float[Array, "B H W C"]:
    """The model's mean velocity from time r to time t; it is shown t and the time between the two."""
    return predict(x, jnp.stack([t, t - r], -1), classes)


def slope_target(predict: Predict, points: PathPoints) -> Float[Array, "B H W C"]:
    """``v - (t - r) * du/dt`` along the path: what the mean velocity is by its definition, given its own
    slope (Geng et al. 2025, equation 10)."""

    def mean_velocity(x: Array, t: Array, r: Array) -> Array:
        return jump(predict, x, t, r, points.classes)

    tangents = (points.velocity, jnp.ones_like(points.t), jnp.zeros_like(points.r))
    _, slope = jax.jvp(mean_velocity, (points.x, points.t, points.r), tangents)
    return points.velocity - along(points.t - points.r, points.x) * slope


def first(points: PathPoints, count: int) -> PathPoints:
    """The first of the points."""
    return jax.tree.map(lambda leaf: leaf[:count], points)
