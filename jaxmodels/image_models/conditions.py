"""From what is asked of a diffusion model, classes or prompts, to what its denoiser is conditioned on.

`Classes` and `GivenTexts` are here; what makes a `Text` of a prompt is in `jaxmodels.image_models.prompts`.
"""

from dataclasses import dataclass, replace
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.checks import shown, whole
from jaxmodels.models.denoisers.text import Text


@dataclass(frozen=True, kw_only=True)
class Told:
    """What a denoiser may be told beside a class or a prompt.

    Attributes:
        height: of the image in pixels.
        width: of the image in pixels.
        strength: of guidance, for models that are told how much of it to imitate.
    """

    height: int
    width: int
    strength: float


class Conditions(Protocol):
    """How a model is asked for images."""

    def rows(self, asked: Any, told: Told) -> Any:
        """The condition of the denoiser: a pytree of arrays with a row for each image.

        Raises:
            ValueError: `asked` is nothing that the model has images of.
        """

    def away(self, asked: Any, told: Told) -> Any:
        """The condition that guidance leads away from where it is asked for; in most pipelines what `rows`
        gives.

        Raises:
            ValueError: as `rows`.
        """

    def nothing(self, count: int, told: Told) -> Any:
        """The condition of `count` rows that guidance leads away from: no class, or an empty prompt.

        Raises:
            ValueError: the model has none.
        """


@dataclass(frozen=True, kw_only=True)
class Classes:
    """Images of classes, which are numbered from 0.

    Attributes:
        num_classes: how many there are; the number behind the last stands for no class.
    """

    num_classes: int

    def rows(self, asked: Any, told: Told) -> jax.Array:
        """i32[B]; asked: one class or several."""
        return jnp.asarray(known_classes(asked, self.num_classes), jnp.int32)

    def away(self, asked: Any, told: Told) -> jax.Array:
        return self.rows(asked, told)

    def nothing(self, count: int, told: Told) -> jax.Array:
        return jnp.full(count, self.num_classes, jnp.int32)


@dataclass(frozen=True, kw_only=True)
class GivenTexts:
    """Images of texts that were encoded elsewhere: pipelines without text encoders.

    Attributes:
        tells_size: whether the denoiser is told height and width.
        tells_strength: whether it is told a strength of guidance.
    """

    tells_size: bool = False
    tells_strength: bool = False

    def rows(self, asked: Any, told: Told) -> Text:
        """asked: a `Text`, without what `told` says."""
        if not isinstance(asked, Text):
            kind = "the prompt" if isinstance(asked, str) else "what is asked for,"
            raise ValueError(
                f"{kind} {shown(asked)} cannot be drawn: the model has no text encoder, and draws what is "
                "given as a jaxmodels.models.denoisers.text.Text"
            )
        return tell(asked, told, size=self.tells_size, strength=self.tells_strength)

    def away(self, asked: Any, told: Told) -> Text:
        return self.rows(asked, told)

    def nothing(self, count: int, told: Told) -> Text:
        raise ValueError(
            "guidance leads away from another text, and the model has no text encoder to make an empty one: "
            "give it as negative=, or guidance=1 for none"
        )


def tell(text: Text, told: Told, *, size: bool, strength: bool) -> Text:
    """The text beside which a denoiser is told the size of the image, or the strength of guidance."""
    count = len(text.tokens)
    if size:
        heights = jnp.tile(jnp.array([told.height, told.width], jnp.float32), (count, 1))
        ratios = jnp.full(count, told.height / told.width, jnp.float32)
        text = replace(text, resolution=heights, aspect_ratio=ratios)
    return replace(text, guidance=jnp.full(count, told.strength, jnp.float32)) if strength else text


def known_classes(asked: Any, num_classes: int) -> np.ndarray:
    """i64[B], the classes that are asked for.

    Raises:
        ValueError: they are no whole numbers from 0 to `num_classes` - 1.
    """
    try:
        classes = np.asarray(asked)
    except ValueError:  # lists of several lengths
        classes = np.zeros(0)
    if classes.dtype.kind == "U":
        raise ValueError(
            f"the model draws classes, 0 to {num_classes - 1}, and takes no prompt, got {shown(asked)}"
        )
    if classes.ndim > 1 or not classes.size or classes.dtype.kind not in "iu":
        raise ValueError(f"class_ids must be one or several whole numbers, got {shown(asked)}")
    classes = np.atleast_1d(classes)
    for i, one in enumerate(classes.tolist()):
        if not 0 <= one < num_classes:
            raise ValueError(f"class_ids[{i}] is {one}: the model has the classes 0 to {num_classes - 1}")
    return classes


def pixel_size(size: Any, multiple: int) -> tuple[int, int]:
    """Height and width in pixels that are asked for by one number for both, or a pair.

    Raises:
        ValueError: they are no whole numbers, or not multiples of `multiple`.
    """
    pair = tuple(size) if isinstance(size, tuple | list) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"size must be a number or (height, width), got {shown(size)}")
    height, width = (whole("size", one, low=1) for one in pair)
    if height % multiple or width % multiple:
        near = f"{max(1, height // multiple) * multiple} x {max(1, width // multiple) * multiple}"
        raise ValueError(
            f"size={height} x {width}: height and width must be multiples of {multiple}, the pixels of a "
            f"patch, for instance {near}"
        )
    return height, width
