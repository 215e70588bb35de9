"""SD3's prompts: two CLIPs side by side, T5 behind them, and what the CLIPs pool."""

from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp

from jaxmodels.image_models.prompts.encoder import PromptEncoder
from jaxmodels.models.denoisers.text import Text

CLIP_LENGTH, T5_LENGTH = 77, 256


@dataclass(frozen=True, kw_only=True)
class SD3Prompts:
    """The CLIPs' states behind the last block but one, joined along the features and filled with zeros to the
    denoiser's width; behind them T5's last states; and the joined pooled vectors. Padding is looked at
    throughout, as `StableDiffusion3Pipeline` has it.

    Attributes:
        clips: both with a projection.
        t5: None where it is left out: its states then are 0.
        width: of the text that the denoiser reads.
        length: of T5's share, in tokens.
    """

    clips: tuple[PromptEncoder, PromptEncoder]
    t5: PromptEncoder | None
    width: int
    length: int = T5_LENGTH

    def __post_init__(self) -> None:
        widths = [clip.config.d_model for clip in self.clips]
        if sum(widths) > self.width:
            raise ValueError(
                f"the text encoders' states of {widths} features are wider than the text of {self.width} "
                "(joint_attention_dim) that the denoiser reads"
            )
        if self.t5 is not None and self.t5.config.d_model != self.width:
            raise ValueError(
                f"the states of text_encoder_3 have {self.t5.config.d_model} features, and the denoiser "
                f"reads a text of {self.width} (joint_attention_dim)"
            )

    def read(self, prompts: Sequence[str]) -> Text:
        # The first tokenizer's length holds for both.
        length = self.clips[0].longest(CLIP_LENGTH)
        clips = [clip.encode_whole(prompts, length, states=(-2,)) for clip in self.clips]
        joined = jnp.concatenate([clip.states[0] for clip in clips], axis=-1)
        joined = jnp.pad(joined, ((0, 0), (0, 0), (0, self.width - joined.shape[-1])))
        if self.t5 is None:
            last = jnp.zeros((len(prompts), self.length, self.width), joined.dtype)
        else:
            last = self.t5.encode_whole(prompts, self.length).last
        pooled = jnp.concatenate([clip.pooled for clip in clips], axis=-1)
        return Text(tokens=jnp.concatenate([joined, last], axis=1), pooled=pooled)

    def read_negative(self, prompts: Sequence[str]) -> Text:
        return self.read(prompts)
