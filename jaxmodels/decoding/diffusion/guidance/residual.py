"""Guidance of streams, whose unconditional noise is estimated by what was kept of the frames before."""

from dataclasses import dataclass
from typing import Protocol

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.decoding.diffusion.guidance.cfg import set_number
from jaxmodels.decoding.diffusion.guidance.guidance import away
from jaxmodels.pytrees import register_dataclass


class StreamGuidance(Protocol):
    """How a stream's noise is guided. Implementations are frozen dataclasses and pytrees."""

    @property
    def extra(self) -> int:
        """How many canvases, from the first, are also computed without their condition; these come first."""

    def __call__(
        self, noise: Float[Array, "M H W C"], stock: Float[Array, "N H W C"]
    ) -> tuple[Float[Array, "N H W C"], Float[Array, "N H W C"]]:
        """The guided noise, and the stock that it was guided by.

        Args:
            noise: the model's, of `extra` canvases without and of all N with their condition.
            stock: the noise that is taken for the unconditional one, of each step of the stream.
        """


@dataclass(frozen=True)
class Residual:
    """``u + scale * (c - u)`` with ``u = delta * stock``: guidance without further calls of the model.
    StreamDiffusion's self-negative guidance (Kodaira et al. 2023, https://arxiv.org/abs/2312.12491).

    Attributes:
        scale: see `CFG`.
        delta: the share of the stock.

    Raises:
        ValueError: a number outside its range.
    """

    scale: float = 1.2
    delta: float = 1.0

    def __post_init__(self) -> None:
        set_number(self, "scale")
        set_number(self, "delta", low=0.0)

    @property
    def extra(self) -> int:
        """None."""
        return 0

    def __call__(
        self, noise: Float[Array, "N H W C"], stock: Float[Array, "N H W C"]
    ) -> tuple[Float[Array, "N H W C"], Float[Array, "N H W C"]]:
        """See `StreamGuidance`."""
        return away(noise, self.delta * stock, jnp.asarray(self.scale)), stock


@dataclass(frozen=True)
class ResidualFromFirst:
    """`Residual` whose stock starts, for each frame, from the unconditional noise of the frame's first step:
    one further canvas for each call of the model. StreamDiffusion's onetime-negative guidance.

    Attributes:
        scale: see `CFG`.
        delta: the share of the stock.

    Raises:
        ValueError: a number outside its range.
    """

    scale: float = 1.2
    delta: float = 1.0

    def __post_init__(self) -> None:
        set_number(self, "scale")
        set_number(self, "delta", low=0.0)

    @property
    def extra(self) -> int:
        """The first canvas."""
        return 1

    def __call__(
        self, noise: Float[Array, "M H W C"], stock: Float[Array, "N H W C"]
    ) -> tuple[Float[Array, "N H W C"], Float[Array, "N H W C"]]:
        """See `StreamGuidance`."""
        stock = jnp.concatenate([noise[:1], stock[1:]])
        return away(noise[1:], self.delta * stock, jnp.asarray(self.scale)), stock


register_dataclass(Residual, ["scale", "delta"], [])
register_dataclass(ResidualFromFirst, ["scale", "delta"], [])
