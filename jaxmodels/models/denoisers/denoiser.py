"""What every denoiser answers to, and what it gives."""

from collections.abc import Sequence
from typing import Any, Protocol

import jax
from flax import struct
from jaxtyping import Array, Float, Num

from jaxmodels.layers.spec import Params, ParamTree


@struct.dataclass
class Denoised:
    """What a denoiser made of a canvas.

    Attributes:
        prediction: [B, H, W, C_out]; of noise, velocity or data, as the model was trained. Where it also
            predicts a variance, the channels of that follow.
        taps: [B, S, D] each, the streams that were asked for by name.
    """

    prediction: jax.Array
    taps: dict[str, jax.Array]


class Denoiser(Protocol):
    """A model of one denoising step. Implementations are hashable frozen dataclasses, at once configuration
    and module."""

    @property
    def blocks(self) -> tuple[Any, ...]:
        """One for each layer."""

    @property
    def family(self) -> str | None:
        """What it was read as and is written back as, None if it has no such form."""

    def spec(self) -> ParamTree:
        """Shapes, axes and initialisers of all parameters."""

    def denoise(
        self,
        params: Params,
        x: Float[Array, "B H W C"],
        t: Num[Array, "B"],
        condition: Any,
        *,
        taps: Sequence[str] = (),
    ) -> Denoised:
        """The prediction for noisy canvases at times `t`, under what the model is conditioned on.

        Args:
            params: those of `spec`.
            x: canvases, channels last.
            t: the time of each row, as the model was trained on it.
            condition: a class of each row, or whatever the model takes.
            taps: streams to give beside the prediction: "embeddings", "blocks/3" (behind block 3).
        """
