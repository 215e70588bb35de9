"""Coupled masking: the likelihood of completions, as reinforcement learning of masked models needs it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import number
from jaxmodels.training.loss import token_nats
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion, check_fills
from jaxmodels.training.objectives.objective import Score, Windows


@struct.dataclass
class CoupledWindows:
    """Windows, and which of their answers the first of two views hides.

    Attributes:
        tokens: i32[B, S].
        answers: bool[B, S].
        masked: bool[B, S], what the first view hides; the second one hides the other answers.
        ratio: f32[B], in which the first view does.
        valid: i32[B], as in `Windows`.
    """

    tokens: jax.Array
    answers: jax.Array
    masked: jax.Array
    ratio: jax.Array
    valid: jax.Array | None = None


@dataclass(frozen=True, kw_only=True)
class Coupled:
    """The cost of each answer token by the estimator of coupled-GRPO (DiffuCoder,
    https://arxiv.org/abs/2506.20639, with the weights of its published code).

    Three views of a window: all answers masked; some of them, in a ratio t; the others. A token costs the
    mean of what it does in the first view and, weighted by the inverse ratio, in the one of the other two
    that masks it. `nats` of a policy and of the one that drew the completions, with the same key, give the
    ratio that GRPO clips; as an objective it is their mean, which is policy gradient with an advantage of 1.

    Attributes:
        low, high: t is uniform between them.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    low: float = 0.2
    high: float = 0.8

    def __post_init__(self) -> None:
        number("Coupled: low", self.low, low=1e-3, high=1 - 1e-3)
        number("Coupled: high", self.high, low=self.low, high=1 - 1e-3)

    @property
    def estimator(self) -> MaskedDiffusion:
        return MaskedDiffusion().estimator

    def check(self, model: Any) -> None:
        check_fills("coupled", model)

    def prepare(self, windows: Windows, key: jax.Array) -> CoupledWindows:
        for_ratio, for_tokens = jax.random.split(key)
        ratio = jax.random.uniform(for_ratio, windows.tokens.shape[:1], minval=self.low, maxval=self.high)
        drawn = jax.random.uniform(for_tokens, windows.tokens.shape) < ratio[:, None]
        return CoupledWindows(
            tokens=windows.tokens,
            answers=windows.predicted,
            masked=windows.predicted & drawn,
            ratio=ratio,
            valid=windows.valid,
        )

    def loss(self, score: Score, example: CoupledWindows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        count = example.answers.sum().astype(jnp.float32)
        return self.nats(score, example).sum() / jnp.maximum(count, 1.0), count

    def nats(self, score: Score, example: CoupledWindows) -> Float[Array, "B S"]:
        filling = score.filling
        assert filling is not None and filling.mask_token is not None
        hidden = (example.answers, example.masked, example.answers & ~example.masked)
        views = [jnp.where(these, filling.mask_token, example.tokens) for these in hidden]

        def pick(states: Float[Array, "R S D"]) -> Float[Array, "C S D"]:
            """Two rows for each window: of the view that hides all, and of that which hides the token."""
            full, first, second = jnp.split(jnp.roll(states, filling.offset, axis=1), 3)
            return jnp.concatenate([full, jnp.where(example.masked[..., None], first, second)])

        valid = None if example.valid is None else jnp.tile(example.valid, 3)
        logits = score(jnp.concatenate(views), valid=valid, pick=pick)
        full, half = jnp.split(token_nats(logits, jnp.tile(example.tokens, (2, 1))), 2)
        ratio = example.ratio[:, None]
        half = half / jnp.where(example.masked, ratio, 1 - ratio)
        return jnp.where(example.answers, (full + half) / 2, 0.0)
