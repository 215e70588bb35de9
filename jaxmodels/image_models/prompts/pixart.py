"""PixArt's prompts: T5, whose padding neither it nor the denoiser looks at."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxmodels.image_models.prompts.encoder import PromptEncoder
from jaxmodels.models.denoisers.text import Text

# Of PixArt-alpha; PixArt-Sigma reads 300.
LENGTH = 120


@dataclass(frozen=True, kw_only=True)
class PixArtPrompts:
    """T5's last states, and which tokens are real, as `PixArtAlphaPipeline` makes them of captions that are
    clean: in small letters, without space around them. That pipeline also takes addresses and markup out
    where two more libraries are installed; none of that is done here.

    Attributes:
        encoder: T5.
        length: of all prompts, in tokens.
    """

    encoder: PromptEncoder
    length: int = LENGTH

    def read(self, prompts: Sequence[str]) -> Text:
        encoded, seen = self.encoder.encode([one.lower().strip() for one in prompts], self.length)
        return Text(tokens=encoded.last, seen=seen)

    def read_negative(self, prompts: Sequence[str]) -> Text:
        return self.read(prompts)
