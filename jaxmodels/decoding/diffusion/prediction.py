"""What a denoiser's output says: noise, velocity, flow or clean data, and each of them from any other."""

from enum import StrEnum

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float


class Prediction(StrEnum):
    """What a model was trained to predict for ``x = alpha * clean + sigma * noise``.

    The velocity of `V` and `EDM` is that of variance preserving diffusion (Salimans and Ho 2022), of which
    other noise schedules are a rescaling: with ``c = sqrt(alpha^2 + sigma^2)`` it is ``(alpha * noise - sigma
    * clean) / c``. TrigFlow's output is the same thing.
    """

    EPSILON = "epsilon"  # the noise
    V = "v_prediction"  # the velocity
    EDM = "edm"  # the velocity with its sign turned: what the network of Karras et al. 2022 gives
    CLEAN = "sample"  # the clean data
    FLOW = "flow_prediction"  # noise - clean, the velocity of a straight path from data to noise
    FLOW_TO_DATA = "flow_to_data"  # clean - noise, of a straight path from noise to data


@struct.dataclass
class Predicted:
    """A model's output for a canvas, read as whatever a sampler wants to know. The only place of conversions.

    Attributes:
        output: [B, H, W, C or more]; what the model gave, after guidance. Channels behind those of `x` are of
            something else, as of a variance.
        x: [B, H, W, C], the canvas, ``alpha * clean + sigma * noise``. Guidance that takes noise from
            elsewhere puts another canvas here, so that samplers start their steps from this one.
        alpha: f[], the factor of the clean data in `x`.
        sigma: f[], the factor of the noise in `x`.
        kind: what `output` is.
    """

    output: jax.Array
    x: jax.Array
    alpha: jax.Array
    sigma: jax.Array
    kind: Prediction = struct.field(pytree_node=False)

    def raw(self) -> Float[Array, "B H W C"]:
        """The channels of `output` that belong to `x`."""
        return self.output[..., : self.x.shape[-1]].astype(jnp.float32)

    def extra(self) -> Float[Array, "B H W E"]:
        """The channels of `output` behind those of `x`; none in most models."""
        return self.output[..., self.x.shape[-1] :].astype(jnp.float32)

    def clean(self) -> Float[Array, "B H W C"]:
        """The clean data."""
        raw, x, alpha, sigma = self.raw(), self.x, self.alpha, self.sigma
        match self.kind:
            case Prediction.CLEAN:
                return raw
            case Prediction.EPSILON:
                return (x - sigma * raw) / alpha
            case Prediction.FLOW | Prediction.FLOW_TO_DATA:
                return (x - sigma * self.flow()) / (alpha + sigma)
            case Prediction.V | Prediction.EDM:
                return (alpha * x - self._length() * sigma * self._velocity()) / self._length() ** 2

    def noise(self) -> Float[Array, "B H W C"]:
        """The noise."""
        raw, x, alpha, sigma = self.raw(), self.x, self.alpha, self.sigma
        match self.kind:
            case Prediction.CLEAN:
                return (x - alpha * raw) / sigma
            case Prediction.EPSILON:
                return raw
            case Prediction.FLOW | Prediction.FLOW_TO_DATA:
                return (x + alpha * self.flow()) / (alpha + sigma)
            case Prediction.V | Prediction.EDM:
                return (sigma * x + self._length() * alpha * self._velocity()) / self._length() ** 2

    def flow(self) -> Float[Array, "B H W C"]:
        """The velocity of the straight path from clean data to noise, ``noise - clean``."""
        if self.kind is Prediction.FLOW:
            return self.raw()
        if self.kind is Prediction.FLOW_TO_DATA:
            return -self.raw()
        return self.noise() - self.clean()

    def _velocity(self) -> Float[Array, "B H W C"]:
        return -self.raw() if self.kind is Prediction.EDM else self.raw()

    def _length(self) -> Float[Array, ""]:
        return jnp.sqrt(self.alpha**2 + self.sigma**2)


def target(
    kind: Prediction,
    clean: Float[Array, "B H W C"],
    noise: Float[Array, "B H W C"],
    alpha: Float[Array, "..."],
    sigma: Float[Array, "..."],
) -> Float[Array, "B H W C"]:
    """What a model of this kind should predict for ``alpha * clean + sigma * noise``."""
    velocity = (alpha * noise - sigma * clean) / jnp.sqrt(alpha**2 + sigma**2)
    return {
        Prediction.EPSILON: noise,
        Prediction.V: velocity,
        Prediction.EDM: -velocity,
        Prediction.CLEAN: clean,
        Prediction.FLOW: noise - clean,
        Prediction.FLOW_TO_DATA: clean - noise,
    }[kind]
