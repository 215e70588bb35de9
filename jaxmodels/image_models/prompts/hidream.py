"""HiDream's prompts: T5, every block of a Llama, and what two CLIPs pool."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from jaxmodels.image_models.prompts.encoder import PromptEncoder
from jaxmodels.models.denoisers.text import Text

LENGTH = 128
# The most tokens that the pipeline gives to a CLIP.
CLIP_LENGTH = 218


@dataclass(frozen=True, kw_only=True)
class HiDreamPrompts:
    """T5's last states and the Llama's behind each block, which do not look at padding though the denoiser
    does, and the CLIPs' joined pooled vectors (`HiDreamImagePipeline`). The Llama is padded with the token
    that ends its texts.

    Attributes:
        clips: both with a projection.
        t5: of the denoiser's text.
        llama: a language model, whose last states here are those behind its final norm.
        layers: how many of its blocks are given, from the first on.
        length: of all texts, in tokens.

    Raises:
        ValueError: the language model has fewer blocks.
    """

    clips: tuple[PromptEncoder, PromptEncoder]
    t5: PromptEncoder
    llama: PromptEncoder
    layers: int
    length: int = LENGTH

    def __post_init__(self) -> None:
        blocks = len(self.llama.config.blocks)
        if self.layers > blocks:
            raise ValueError(
                f"the denoiser reads {self.layers} blocks (llama_layers) of text_encoder_4, which has "
                f"{blocks}"
            )

    def read(self, prompts: Sequence[str]) -> Text:
        clips = [clip.encode_whole(prompts, min(self.length, CLIP_LENGTH)) for clip in self.clips]
        tokens, _ = self.t5.encode(prompts, min(self.length, self.t5.longest(self.length)))
        blocks = len(self.llama.config.blocks)
        found, _ = self.llama.encode(
            prompts,
            min(self.length, self.llama.longest(self.length)),
            states=tuple(range(1, 1 + min(self.layers, blocks - 1))),
            pad_id=self.llama.tokenizer.eos_id,
        )
        states = (*found.states, found.last)[: self.layers]
        return Text(
            tokens=tokens.last,
            pooled=jnp.concatenate([clip.pooled for clip in clips], axis=-1),
            states=jnp.stack(states, axis=1),
        )

    def read_negative(self, prompts: Sequence[str]) -> Text:
        return self.read(prompts)
