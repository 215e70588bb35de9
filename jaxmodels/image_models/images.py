"""`ImageModel`: what all models of images answer to, and `Images`, what they give."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np


@dataclass(frozen=True, kw_only=True)
class Images:
    """What `ImageModel.generate` gives.

    Attributes:
        pixels: f32[B, H, W, C], from 0 to 1; grey where no code is known.
        codes: i32[B, h, w] of models of codes, -1 where unknown; None of other models.
        calls: calls of the model that found them.
        seconds: wall time, compilation included where there was one.
    """

    pixels: np.ndarray
    codes: np.ndarray | None = None
    calls: int
    seconds: float


@runtime_checkable
class ImageModel(Protocol):
    """A model that draws images of classes or of prompts. Made by `jaxmodels.load`.

    What else `generate` and `stream` take is up to the kind of model: see `jaxmodels.image_models`.
    """

    @property
    def pipeline(self) -> str:
        """The class of its `model_index.json`."""

    @property
    def size(self) -> int:
        """Height and width in pixels of the images that it draws where no size is asked for."""

    def generate(self, asked: Any, /, steps: int = ..., *, size: int | None = None, seed: int = 0) -> Images:
        """An image of each class or prompt.

        Args:
            asked: one or several of them.
            steps: of the method that finds the images.
            size: height and width in pixels.
            seed: of the random draws.

        Raises:
            ValueError: a class, prompt or size that the model has no images of, or impossible steps.
        """

    def stream(
        self, asked: Any, /, steps: int = ..., *, size: int | None = None, seed: int = 0
    ) -> Iterator[Images]:
        """The images of `generate` before the first step and behind each; the last are those it gives.

        Raises:
            ValueError: as `generate`.
        """
