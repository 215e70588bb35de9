"""What training a denoiser differentiates: the parts that all objectives share."""

from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int, Num

from jaxmodels.layers.spec import Params


@struct.dataclass
class Pictures:
    """Images to learn from.

    Attributes:
        images: f32[B, H, W, C], -1 to 1; or latents.
        classes: i32[B].
    """

    images: jax.Array
    classes: jax.Array


class Predict(Protocol):
    """A denoiser with its parameters, as objectives call it."""

    @property
    def num_classes(self) -> int:
        """How many there are; the class of this number stands for none."""

    def __call__(
        self, x: Float[Array, "B H W C"], t: Num[Array, "B"] | Num[Array, "B 2"], classes: Int[Array, "B"]
    ) -> Float[Array, "B H W O"]:
        """The prediction in float32, differentiable in `x` and `t` as well."""


@dataclass(frozen=True)
class Bound:
    """`Predict` of a class-conditional denoiser."""

    model: Any
    params: Params

    @property
    def num_classes(self) -> int:
        return self.model.conditioner.num_classes

    def __call__(self, x: Array, t: Array, classes: Array) -> Array:
        return self.model.denoise(self.params, x, t, classes).prediction.astype(jnp.float32)


@dataclass(frozen=True)
class Trained:
    """What a run is about to improve on.

    Attributes:
        predict: with the parameters that are trained.
        average: with the average of those so far, for targets.
        progress: f32[], the share of the run's steps that is done.
    """

    predict: Predict
    average: Predict
    progress: Array


class DenoisingObjective(Protocol):
    """What a batch is differentiated through. Implementations are frozen dataclasses."""

    @property
    def times(self) -> int:
        """How many times the model is shown: 1, or 2 as f[B, 2]."""

    def loss(
        self, trained: Trained, pictures: Pictures, key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """What is differentiated, and the mean squared error that is told. key: of all noise."""

    def scheduler(self) -> dict[str, Any]:
        """The ``scheduler_config.json`` of the sampler that draws with what was trained."""


def drop_classes(classes: Int[Array, "B"], share: float, num_classes: int, key: Array) -> Int[Array, "B"]:
    """The classes, of which a `share` is replaced by none, so that a model can be guided by the difference
    (https://arxiv.org/abs/2207.12598)."""
    return jnp.where(jax.random.uniform(key, classes.shape) < share, num_classes, classes)


def along(rows: Num[Array, "B"], like: Num[Array, "B ..."]) -> Num[Array, "B ..."]:
    """A number of each row, with axes that broadcast against `like`."""
    return rows.reshape(rows.shape + (1,) * (like.ndim - 1))
