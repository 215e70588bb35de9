"""MaskGIT: the codes of an image are masked, and the model fills them in."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import number
from jaxmodels.training.loss import token_nats
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion, check_fills
from jaxmodels.training.objectives.masking import choose, spread
from jaxmodels.training.objectives.objective import Score, Windows


@struct.dataclass
class MaskedImages:
    """Sequences of a class and codes.

    Attributes:
        tokens: i32[B, S].
        hidden: bool[B, S], the codes that are to be filled in.
        dropped: bool[B, S], the classes that are masked as well and not predicted.
        valid: i32[B], as in `Windows`.
    """

    tokens: jax.Array
    hidden: jax.Array
    dropped: jax.Array
    valid: jax.Array | None = None


@dataclass(frozen=True, kw_only=True)
class MaskGIT:
    """Cross-entropy of the masked codes, whose share is ``cos(pi / 2 * u)`` with u uniform
    (https://arxiv.org/abs/2202.04200, section 3.1).

    The first token of a window is the image's class. It is never predicted, but masked in some of the images,
    so that the model can be guided.

    Attributes:
        label_smoothing: share of the target that is spread over the whole vocabulary.
        class_dropout: share of the images whose class is masked.

    Raises:
        ValueError: a share is not from 0 to 1.
    """

    label_smoothing: float = 0.1
    class_dropout: float = 0.1

    def __post_init__(self) -> None:
        for name in ("label_smoothing", "class_dropout"):
            number(f"MaskGIT: {name}", getattr(self, name), low=0, high=1)

    @property
    def estimator(self) -> MaskedDiffusion:
        return MaskedDiffusion().estimator

    def check(self, model: Any) -> None:
        check_fills("maskgit", model)

    def prepare(self, windows: Windows, key: jax.Array) -> MaskedImages:
        for_share, for_codes, for_class = jax.random.split(key, 3)
        batch, size = windows.tokens.shape
        is_class = jnp.arange(size) == 0
        codes = windows.predicted & ~is_class
        share = jnp.cos(jnp.pi / 2 * spread(for_share, batch))
        count = jnp.maximum(jnp.round(share * codes.sum(1)), 1)
        dropped = jax.random.uniform(for_class, (batch, 1)) < self.class_dropout
        return MaskedImages(
            tokens=windows.tokens,
            hidden=choose(for_codes, codes, count),
            dropped=dropped & is_class,
            valid=windows.valid,
        )

    def loss(self, score: Score, example: MaskedImages) -> tuple[Float[Array, ""], Float[Array, ""]]:
        filling = score.filling
        assert filling is not None and filling.mask_token is not None
        shown = jnp.where(example.hidden | example.dropped, filling.mask_token, example.tokens)
        logits = score(
            shown, valid=example.valid, pick=lambda states: jnp.roll(states, filling.offset, axis=1)
        )
        nats = smoothed_nats(logits, example.tokens, self.label_smoothing)
        count = example.hidden.sum().astype(jnp.float32)
        return jnp.where(example.hidden, nats, 0.0).sum() / jnp.maximum(count, 1.0), count


def smoothed_nats(logits: Float[Array, "B S V"], tokens: Array, smoothing: float) -> Float[Array, "B S"]:
    """Cross-entropy with targets of which a share is spread over the whole vocabulary."""
    of_all = jax.nn.logsumexp(logits, axis=-1) - logits.mean(-1)
    return (1 - smoothing) * token_nats(logits, tokens) + smoothing * of_all
