"""Flux's prompts: T5's states, and what CLIP pools."""

from collections.abc import Sequence
from dataclasses import dataclass

from jaxmodels.image_models.prompts.encoder import PromptEncoder
from jaxmodels.models.denoisers.text import Text

CLIP_LENGTH, T5_LENGTH = 77, 512


@dataclass(frozen=True, kw_only=True)
class FluxPrompts:
    """T5's last states and CLIP's pooled vector. Padding is looked at, as `FluxPipeline` has it.

    Attributes:
        clip: without a projection.
        t5: of the denoiser's text.
        length: of T5's texts, in tokens.
    """

    clip: PromptEncoder
    t5: PromptEncoder
    length: int = T5_LENGTH

    def read(self, prompts: Sequence[str]) -> Text:
        pooled = self.clip.encode_whole(prompts, self.clip.longest(CLIP_LENGTH)).pooled
        return Text(tokens=self.t5.encode_whole(prompts, self.length).last, pooled=pooled)

    def read_negative(self, prompts: Sequence[str]) -> Text:
        return self.read(prompts)
