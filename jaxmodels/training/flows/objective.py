"""What TarFlow is trained with: the likelihood of images with noise added."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number
from jaxmodels.layers.spec import Params
from jaxmodels.models.flows.tarflow import TarFlow


@dataclass(frozen=True, kw_only=True)
class LikelihoodObjective:
    """The mean negative log-likelihood of images with Gaussian noise of `TarFlow.noise_std`.

    Source: Zhai et al. 2024 (https://arxiv.org/abs/2412.06329) and its code.

    Attributes:
        dropped: the share of images that lose their class.

    Raises:
        ValueError: the share is not from 0 to 1.
    """

    dropped: float = 0.1

    def __post_init__(self) -> None:
        number("LikelihoodObjective: dropped", self.dropped, low=0, high=1)

    def loss(
        self,
        model: TarFlow,
        params: Params,
        images: Float[Array, "B H W C"],
        classes: Int[Array, "B"],
        key: Array,
    ) -> Float[Array, ""]:
        """In nats for each number of an image, without the constant ``log(2 pi) / 2``."""
        noise_key, class_key = jax.random.split(key)
        noisy = images + model.noise_std * jax.random.normal(noise_key, images.shape)
        lost = jax.random.bernoulli(class_key, self.dropped, classes.shape)
        return model.negative_log_likelihood(params, noisy, jnp.where(lost, -1, classes)).mean()
