"""The objective of an autoencoder with a codebook, and the care that a codebook needs."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.checks import number
from jaxmodels.layers.spec import Params
from jaxmodels.models.autoencoders.vq import VQModel, nearest_code


@dataclass(frozen=True, kw_only=True)
class VQObjective:
    """Mean squared error of the pixels, of the codes, and of what is held to them
    (https://arxiv.org/abs/1711.00937).

    The gradient of the pixels passes the choice of codes unchanged, to the encoder.

    Attributes:
        commitment: how much the encoder is held to the codes that it is given.

    Raises:
        ValueError: `commitment` is negative.
    """

    commitment: float = 0.25

    def __post_init__(self) -> None:
        number("VQObjective: commitment", self.commitment, low=0)

    def loss(
        self, model: VQModel, params: Params, images: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The sum, and the error of the pixels alone."""
        latents = model.encode(params, images)
        codebook = params["codebook"]["weight"]
        chosen = codebook[nearest_code(latents, codebook)]
        through = latents + lax.stop_gradient(chosen - latents)
        pixels = jnp.square(model.decode(params, through) - images).mean()
        codes = jnp.square(chosen - lax.stop_gradient(latents)).mean()
        held = jnp.square(lax.stop_gradient(chosen) - latents).mean()
        return pixels + codes + self.commitment * held, pixels


def revive(
    model: VQModel, params: Params, images: Float[Array, "B H W C"], key: Array
) -> tuple[Params, Float[Array, ""]]:
    """Moves codes that none of the images has to places where images are, and counts them.

    Without it most of a codebook is never chosen, and so never learns.
    """
    latents = model.encode(params, images).reshape(-1, model.code_width)
    codebook = params["codebook"]["weight"]
    used = jnp.zeros((model.num_codes,), bool).at[nearest_code(latents, codebook)].set(True)
    drawn = latents[jax.random.randint(key, (model.num_codes,), 0, len(latents))]
    moved = jnp.where(used[:, None], codebook, drawn.astype(codebook.dtype))
    return {**params, "codebook": {"weight": moved}}, (~used).sum().astype(jnp.float32)
