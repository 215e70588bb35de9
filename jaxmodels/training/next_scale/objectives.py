"""What VAR and its autoencoder are trained with."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number
from jaxmodels.layers.spec import Params
from jaxmodels.models.autoencoders.multi_scale import MultiScaleVQ
from jaxmodels.models.autoencoders.pyramid import Pyramid
from jaxmodels.models.next_scale.var import VAR


@dataclass(frozen=True, kw_only=True)
class PyramidObjective:
    """Mean squared error of the pixels, and of the latents behind every scale, both ways.

    The gradient of the pixels passes the choice of codes unchanged, to the encoder. The published run adds
    a perceptual and an adversarial loss, of which no code was released. Source: Tian et al. 2024
    (https://arxiv.org/abs/2404.02905), ``VectorQuantizer2.forward``.

    Attributes:
        commitment: how much the encoder is held to the codes that it is given.

    Raises:
        ValueError: `commitment` is negative.
    """

    commitment: float = 0.25

    def __post_init__(self) -> None:
        number("PyramidObjective: commitment", self.commitment, low=0)

    def loss(
        self, model: MultiScaleVQ, params: Params, images: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The sum, and the error of the pixels alone."""
        latents = model.encode(params, images)
        held = lax.stop_gradient(latents)
        errors = jnp.zeros(())
        for _, _, found in model.pyramid.steps(params, held):
            errors += jnp.square(found - held).mean()
            errors += self.commitment * jnp.square(lax.stop_gradient(found) - latents).mean()
        through = latents + lax.stop_gradient(found - latents)
        pixels = jnp.square(model.decode(params, through) - images).mean()
        return pixels + errors / len(model.pyramid.sides), pixels


def revive(
    model: MultiScaleVQ, params: Params, images: Float[Array, "B H W C"], key: Array
) -> tuple[Params, Float[Array, ""]]:
    """Moves codes that no scale of the images has to vectors that were looked for, and counts them."""
    codes, missing, _ = zip(*model.pyramid.steps(params, model.encode(params, images)), strict=True)
    wanted = jnp.concatenate(missing, axis=1).reshape(-1, model.pyramid.code_width)
    used = jnp.zeros((model.num_codes,), bool).at[jnp.concatenate(codes, axis=1)].set(True)
    drawn = wanted[jax.random.randint(key, (model.num_codes,), 0, len(wanted))]
    codebook = params["codebook"]["weight"]
    moved = jnp.where(used[:, None], codebook, drawn.astype(codebook.dtype))
    return {**params, "codebook": {"weight": moved}}, (~used).sum().astype(jnp.float32)


@dataclass(frozen=True, kw_only=True)
class CodesObjective:
    """Cross-entropy of the codes of all scales, each under the scales before it, each code counting alike.

    Attributes:
        dropped: the share of images that lose their class.
        smoothing: the share of each target that goes to all codes alike.

    Raises:
        ValueError: a share is not from 0 to 1.
    """

    dropped: float = 0.1
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in ("dropped", "smoothing"):
            number(f"CodesObjective: {name}", getattr(self, name), low=0, high=1)

    def loss(
        self,
        model: VAR,
        params: Params,
        pyramid: Pyramid,
        pyramid_params: Params,
        codes: Int[Array, "B L"],
        classes: Int[Array, "B"],
        key: Array,
    ) -> Float[Array, ""]:
        """The mean over images and codes, in nats. pyramid_params: what the codes are of; not trained."""
        lost = jax.random.bernoulli(key, self.dropped, classes.shape)
        classes = jnp.where(lost, model.num_classes, classes)
        shown = lax.stop_gradient(pyramid.inputs(pyramid_params, codes))
        logits = model.forward(params, classes, shown)
        wanted = optax.smooth_labels(jax.nn.one_hot(codes, model.num_codes), self.smoothing)
        return optax.softmax_cross_entropy(logits, wanted).mean()
