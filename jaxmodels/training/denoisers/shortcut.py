"""Shortcut models: the velocity of steps of any length, long ones learnt from two half as long."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, whole
from jaxmodels.training.denoisers.objective import Pictures, Predict, Trained, along, drop_classes

# Of the published code: how much noise is left at the end of the path, and the bound on what is aimed at.
_LEFT, _MOST = 1e-5, 4.0


@dataclass(frozen=True, kw_only=True)
class Shortcut:
    """Flow matching for most images; for the others, the mean velocity of two steps of half the length (Frans
    et al. 2024, https://arxiv.org/abs/2410.12557, and its code).

    The path leads from noise at time 0 to data at 1. The model is shown the time and the binary logarithm of
    how many steps of the same length make the whole path; `finest` says the shortest, which flow matching
    trains. Steps of half the length are those of the averaged parameters.

    Attributes:
        finest: binary logarithm of the number of the shortest steps.
        halved: one in so many images learns from two half steps.
        guidance: how far half steps are guided away from no class; 1 for not at all. They are guided in one
            of every `guided` of those images.
        guided: see `guidance`.
        class_dropout: share of the images of flow matching whose class is not shown.

    Raises:
        ValueError: a number is out of range.
    """

    finest: int = 7
    halved: int = 8
    guidance: float = 1.0
    guided: int = 1
    class_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("finest", "halved", "guided"):
            whole(f"Shortcut: {name}", getattr(self, name), low=1)
        number("Shortcut: guidance", self.guidance, low=0)
        number("Shortcut: class_dropout", self.class_dropout, low=0, high=1)

    @property
    def times(self) -> int:
        return 2

    def loss(
        self, trained: Trained, pictures: Pictures, key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """See `DenoisingObjective.loss`."""
        keys, predict = jax.random.split(key, 4), trained.predict
        images, batch = pictures.images, len(pictures.images)
        halved = jnp.arange(batch) < batch // self.halved
        coarse = jax.random.randint(keys[0], (batch,), 0, self.finest)
        level = jnp.where(halved, coarse, self.finest)
        steps = 2**level
        t = jnp.floor(jax.random.uniform(keys[1], (batch,)) * steps) / steps
        noise = jax.random.normal(keys[2], images.shape)
        x = (1 - (1 - _LEFT) * along(t, images)) * noise + along(t, images) * images
        dropped = drop_classes(pictures.classes, self.class_dropout, predict.num_classes, keys[3])
        classes = jnp.where(halved, pictures.classes, dropped)
        few = batch // self.halved
        first = [part[:few] for part in (x, t, level, pictures.classes)]
        aimed = self.two_steps(trained.average, *first)
        target = jnp.concatenate([aimed, (images - (1 - _LEFT) * noise)[few:]])
        made = predict(x, jnp.stack([t, level.astype(jnp.float32)], -1), classes)
        error = jnp.square(made - jax.lax.stop_gradient(target)).mean()
        return error, error

    def two_steps(
        self,
        predict: Predict,
        x: Float[Array, "B H W C"],
        t: Float[Array, "B"],
        level: Int[Array, "B"],
        classes: Int[Array, "B"],
    ) -> Float[Array, "B H W C"]:
        """The mean velocity of two steps of half the length ``2 ** -level``."""
        half, finer = 0.5 ** (level + 1.0), level + 1

        def velocity(x: Array, t: Array) -> Array:
            times = jnp.stack([t, finer.astype(jnp.float32)], -1)
            to_class = predict(x, times, classes)
            if self.guidance == 1:
                return to_class
            to_none = predict(x, times, jnp.full_like(classes, predict.num_classes))
            guided = along(jnp.arange(len(x)) % self.guided == 0, x)
            return jnp.where(guided, to_none + self.guidance * (to_class - to_none), to_class)

        one = velocity(x, t)
        between = jnp.clip(x + along(half, x) * one, -_MOST, _MOST)
        two = velocity(between, t + half)
        return jnp.clip((one + two) / 2, -_MOST, _MOST)

    def scheduler(self) -> dict[str, Any]:
        """A sampler of jaxmodels; `diffusers` has none for these."""
        return {"_class_name": "ShortcutScheduler"}
