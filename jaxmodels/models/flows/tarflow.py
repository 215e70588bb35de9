"""TarFlow: an image as noise through a few causal transformers, each in the other direction."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int

from jaxmodels.layers.patches import patch_grid
from jaxmodels.layers.spec import ONES, Param, Params, ParamTree
from jaxmodels.models.flows.flow_block import FlowBlock


@dataclass(frozen=True, kw_only=True)
class TarFlow:
    """The flow of https://arxiv.org/abs/2412.06329: exact likelihoods, and samples by running it backwards.

    Attributes:
        image_channels: of images; pixels are from -1 to 1.
        size: height and width of an image.
        patch: height and width of what a token holds.
        steps: from images to noise.
        noise_std: of the noise that was added to the images it was trained on, which `denoised` takes away.
        family: what it was read as and is written back as, None if it has no such form.

    Raises:
        ValueError: there is no step, or `patch` does not divide `size`.
    """

    image_channels: int = 3
    size: int
    patch: int
    steps: tuple[FlowBlock, ...]
    noise_std: float = 0.0
    family: str | None = None

    def __post_init__(self) -> None:
        if not self.steps:
            raise ValueError("TarFlow: steps must hold at least one, got none")
        patch_grid(self.size, self.size, self.patch)

    @property
    def blocks(self) -> tuple[Any, ...]:
        """None: its layers are those of its steps."""
        return ()

    @property
    def places(self) -> int:
        """Tokens of an image."""
        return (self.size // self.patch) ** 2

    @property
    def channels(self) -> int:
        """Numbers of a token."""
        return self.image_channels * self.patch**2

    @property
    def num_classes(self) -> int:
        """Classes are numbered from 0, and -1 stands for none; 0 for a model without classes."""
        return self.steps[0].num_classes

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""
        prior = Param((self.places, self.channels), (None, None), ONES, frozen=True)
        return {
            "steps": {str(i): step.spec() for i, step in enumerate(self.steps)},
            "prior": {"variance": prior},
        }

    def tokens(self, images: Float[Array, "B H W C"]) -> Float[Array, "B S P"]:
        """Images as tokens, row by row.

        Raises:
            ValueError: images of another size or of other channels.
        """
        expected = (self.size, self.size, self.image_channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            raise ValueError(f"images: expected {['B', *expected]}, got {list(images.shape)}")
        return rearrange(images, "b (h p) (w q) c -> b (h w) (c p q)", p=self.patch, q=self.patch)

    def images(self, tokens: Float[Array, "B S P"]) -> Float[Array, "B H W C"]:
        """The inverse of `tokens`."""
        return rearrange(
            tokens,
            "b (h w) (c p q) -> b (h p) (w q) c",
            h=self.size // self.patch,
            p=self.patch,
            q=self.patch,
        )

    def forward(
        self, params: Params, images: Float[Array, "B H W C"], classes: Int[Array, "B"] | None = None
    ) -> tuple[Float[Array, "B S P"], Float[Array, "B"]]:
        """The noise of images, f32, and the mean over its numbers of the logarithms that they were scaled by.

        Args:
            classes: of each image; -1, or None for all, for no class. Not read by a model without classes.
        """
        x, scaled = self.tokens(images).astype(jnp.float32), jnp.zeros(images.shape[:1])
        for i, step in enumerate(self.steps):
            x, log_scale = step.forward(params["steps"][str(i)], x, classes)
            scaled = scaled + log_scale
        return x, scaled

    def negative_log_likelihood(
        self, params: Params, images: Float[Array, "B H W C"], classes: Int[Array, "B"] | None = None
    ) -> Float[Array, "B"]:
        """In nats for each number of an image, without the constant ``log(2 pi) / 2``."""
        z, scaled = self.forward(params, images, classes)
        return 0.5 * jnp.square(z).mean((1, 2)) - scaled

    def denoised(
        self, params: Params, images: Float[Array, "B H W C"], classes: Int[Array, "B"] | None = None
    ) -> Float[Array, "B H W C"]:
        """Images, as the model makes them, without the noise of those it was trained on: their mean under it,
        ``x + noise_std^2 * d log p(x) / dx`` (Tweedie's formula)."""
        numbers = self.places * self.channels

        def total(images: Float[Array, "B H W C"]) -> Float[Array, ""]:
            return numbers * self.negative_log_likelihood(params, images, classes).sum()

        return images - self.noise_std**2 * jax.grad(total)(images)
