"""`ImageModel`: what all models of images answer to, and `Images`, what they give."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, runtime_checkable

import numpy as np
from jax.sharding import Mesh

from jaxmodels.checks import whole
from jaxmodels.image_models.pictures import write_picture
from jaxmodels.layers.quantized.quantization import Quantization
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules

# Called with the number of steps that are done, and of all.
Progress: TypeAlias = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Images:
    """What `ImageModel.generate` gives.

    Attributes:
        pixels: f32[B, H, W, C], from 0 to 1; grey where no code is known.
        codes: i32[B, h, w] of models of codes, or i32[B, L] of all scales, one behind the other; -1 where
            unknown. None of other models.
        latents: f32[B, h, w, c] of diffusion models, what the pixels were made of; None of other models.
        calls: calls of the model that found them.
        blocks: f32[calls] of diffusion models, how many blocks each call computed; None of other models.
        seconds: wall time, compilation included where there was one.
    """

    pixels: np.ndarray
    codes: np.ndarray | None = None
    latents: np.ndarray | None = None
    calls: int
    blocks: np.ndarray | None = None
    seconds: float

    def save(self, file: str | Path, columns: int | None = None) -> None:
        """Writes the images as one picture, such as a PNG.

        Args:
            file: where to, in the format that its name ends in.
            columns: how many images stand beside each other; None for all.

        Raises:
            ValueError: the name does not end as a picture's, or `columns` is no whole number >= 1.
        """
        beside = len(self.pixels) if columns is None else whole("columns", columns, low=1)
        starts = range(0, len(self.pixels), beside)
        write_picture(file, [list(self.pixels[start : start + beside]) for start in starts])


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
        """Height in pixels of the images that it draws where no size is asked for."""

    @property
    def options(self) -> tuple[str, ...]:
        """Further arguments of `generate` that may be a name or a number, as command lines give them."""

    def on_mesh(self, mesh: Mesh, rules: Rules = DEFAULT_RULES) -> "ImageModel":
        """This model with what draws spread over the devices of a mesh.

        Raises:
            ValueError: the mesh does not divide it.
        """

    def quantized(self, quantization: str | Quantization) -> "ImageModel":
        """This model with the weights of what draws in few bits.

        Raises:
            ValueError: there is no quantisation of this name, or it cannot hold a weight, which is named.
        """

    def dequantized(self) -> "ImageModel":
        """This model with the arrays that its quantised weights stand for."""

    def generate(
        self,
        asked: Any,
        /,
        steps: int = ...,
        *,
        size: int | None = None,
        seed: int = 0,
        progress: Progress | None = None,
    ) -> Images:
        """An image of each class or prompt.

        Args:
            asked: one or several of them.
            steps: of the method that finds the images.
            size: height and width in pixels.
            seed: of the random draws.
            progress: called behind each step.

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
