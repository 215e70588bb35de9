"""Sana's prompts: a small Gemma that is told what to make of them."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from jaxmodels.image_models.prompts.encoder import PromptEncoder
from jaxmodels.models.denoisers.text import Text

LENGTH = 300


@dataclass(frozen=True, kw_only=True)
class SanaPrompts:
    """The language model's last states of a prompt in small letters, behind an instruction if there is one:
    those of the first token and of the last ``length - 1``, of which padding is not looked at
    (`SanaPipeline`). What guidance leads away from has no instruction.

    Attributes:
        encoder: the language model.
        instruction: what stands in front of every prompt. That of the published models is an argument of
            their pipeline, `complex_human_instruction`, not part of their files: join its lines by newlines.
        length: of the text that the denoiser reads, in tokens.
    """

    encoder: PromptEncoder
    instruction: str = ""
    length: int = LENGTH

    def read(self, prompts: Sequence[str]) -> Text:
        own = len(self.encoder.tokenizer.encode(self.instruction)) if self.instruction else 0
        # As the published code counts: without the token that begins every text, and one more.
        length = self.length + (own - 2 if self.instruction else 0)
        return self._read([self.instruction + _clean(one) for one in prompts], length)

    def read_negative(self, prompts: Sequence[str]) -> Text:
        return self._read([_clean(one) for one in prompts], self.length)

    def _read(self, texts: Sequence[str], length: int) -> Text:
        encoded, seen = self.encoder.encode(texts, length)
        kept = np.array([0, *range(1 - self.length, 0)])
        return Text(tokens=jnp.asarray(encoded.last)[:, kept], seen=seen[:, kept])


def _clean(prompt: str) -> str:
    return prompt.lower().strip()
