"""Images of prompts: the conditions of a model with text encoders, whichever way it reads them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from jaxmodels.checks import shown
from jaxmodels.image_models.conditions import Told, tell
from jaxmodels.models.denoisers.text import Text


class ReadsPrompts(Protocol):
    """A pipeline's way from prompts to what its denoiser is conditioned on."""

    def read(self, prompts: Sequence[str]) -> Text:
        """A row for each prompt."""

    def read_negative(self, prompts: Sequence[str]) -> Text:
        """A row for each prompt that guidance leads away from; in most pipelines what `read` gives."""


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """The `Conditions` of a model with text encoders. A `Text` that is given in place of prompts is taken as
    it is.

    Attributes:
        reader: the pipeline's way.
        tells_size: whether the denoiser is told height and width.
        tells_strength: whether it is told a strength of guidance.
    """

    reader: ReadsPrompts
    tells_size: bool = False
    tells_strength: bool = False

    def rows(self, asked: Any, told: Told) -> Text:
        """asked: one prompt or several, or a `Text`."""
        return self._told(self.reader.read, asked, told)

    def away(self, asked: Any, told: Told) -> Text:
        return self._told(self.reader.read_negative, asked, told)

    def nothing(self, count: int, told: Told) -> Text:
        """Empty prompts."""
        text = self.reader.read_negative([""])
        rows: Text = jax.tree.map(lambda leaf: jnp.repeat(leaf, count, axis=0), text)
        return self._tell(rows, told)

    def _told(self, read: Callable[[Sequence[str]], Text], asked: Any, told: Told) -> Text:
        return self._tell(asked if isinstance(asked, Text) else read(known_prompts(asked)), told)

    def _tell(self, text: Text, told: Told) -> Text:
        return tell(text, told, size=self.tells_size, strength=self.tells_strength)


def known_prompts(asked: Any) -> list[str]:
    """The prompts that are asked for.

    Raises:
        ValueError: they are no texts, or there are none.
    """
    prompts = [asked] if isinstance(asked, str) else asked
    if not isinstance(prompts, Sequence) or not prompts or not all(isinstance(one, str) for one in prompts):
        raise ValueError(f"the model draws prompts, one text or several, got {shown(asked)}")
    return list(prompts)
