"""Certainty forcing: what is predicted right is made certain, so that more tokens are filled at once."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import number, whole
from jaxmodels.training.loss import token_nats
from jaxmodels.training.objectives.masked_diffusion import (
    MaskedDiffusion,
    MaskedWindows,
    check_fills,
    filled_in,
)
from jaxmodels.training.objectives.objective import Score, Windows


@dataclass(frozen=True, kw_only=True)
class CertaintyForcing:
    """Cross-entropy of masked tokens, and the entropy of those that are predicted right (dParallel,
    https://arxiv.org/abs/2509.26488, with the numbers of its published training code).

    Each answer is cut into blocks, and one of them, drawn uniformly, is half masked: what comes before it is
    known, what comes after is masked and not predicted. A second view masks the other half. The losses of
    the two views, which are means over a micro-batch, are added up. Where the answer is no whole number of
    blocks, its end counts as one more block.

    Attributes:
        block: tokens of a block.
        ratio: probability with which a token of the block is masked in the first view.
        entropy_weight: of the mean entropy, beside the mean cross-entropy.
        temperature: divides the logits of which the entropy is taken.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    block: int = 32
    ratio: float = 0.5
    entropy_weight: float = 2.0
    temperature: float = 0.5

    def __post_init__(self) -> None:
        whole("CertaintyForcing: block", self.block, low=1)
        number("CertaintyForcing: ratio", self.ratio, low=0, high=1)
        number("CertaintyForcing: entropy_weight", self.entropy_weight, low=0)
        number("CertaintyForcing: temperature", self.temperature, low=1e-3)

    @property
    def estimator(self) -> MaskedDiffusion:
        return MaskedDiffusion().estimator

    def check(self, model: Any) -> None:
        check_fills("certainty_forcing", model)

    def prepare(self, windows: Windows, key: jax.Array) -> MaskedWindows:
        for_block, for_tokens = jax.random.split(key)
        rank = jnp.cumsum(windows.predicted, axis=1) - 1  # of each answer token in its answer
        length = windows.predicted.sum(1)
        chosen = _uniform_below(for_block, -(-length // self.block))[:, None]
        active = windows.predicted & (rank // self.block == chosen)
        later = windows.predicted & (rank // self.block > chosen)
        halved = jax.random.uniform(for_tokens, active.shape) < self.ratio
        # what is masked in both views is weighted with 0: of no use to either loss
        return MaskedWindows(
            tokens=windows.tokens,
            masked=(active & halved) | later,
            rest=(active & ~halved) | later,
            weight=active.astype(jnp.float32),
            count=active.sum(1).astype(jnp.float32),
            valid=windows.valid,
        )

    def loss(self, score: Score, example: MaskedWindows) -> tuple[Float[Array, ""], Float[Array, ""]]:
        logits = filled_in(score, example).astype(jnp.float32)
        active = example.weight > 0
        right = jnp.argmax(logits, axis=-1) == example.tokens
        log_p = jax.nn.log_softmax(logits / self.temperature, axis=-1)
        entropy = -(jnp.exp(log_p) * log_p).sum(-1)
        nats = token_nats(logits, example.tokens)
        loss = jnp.zeros(())
        for hidden in (active & example.masked, active & ~example.masked):
            loss += _mean(nats, hidden) + self.entropy_weight * _mean(entropy, hidden & right)
        return loss, example.count.sum()


def _uniform_below(key: jax.Array, bound: Int[Array, " B"]) -> Int[Array, " B"]:
    return jnp.floor(jax.random.uniform(key, bound.shape) * bound).astype(jnp.int32)


def _mean(values: Float[Array, "B S"], counted: Float[Array, "B S"]) -> Float[Array, ""]:
    """The mean of what is counted; 0 of nothing."""
    return jnp.where(counted, values, 0.0).sum() / jnp.maximum(counted.sum(), 1)
