"""Gates that are learned with the heads: halting distributions over the exits."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.checks import is_traced, number
from jaxmodels.decoding.depth.sequence.classifier import AtExit
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True, eq=False)
class QExit:
    """PALBERT's gate: the first exit at which the probability of having halted reaches `q`.

    Exit k halts what comes to it with the probability ``lambda_k = sigmoid(w_out . tanh(w_in [h_k; h_(k-1)] +
    b_in) + b_out)``. Source: PALBERT (https://arxiv.org/abs/2204.03276); that the layer behind the two
    streams has one hidden layer with a tanh is inferred.

    Attributes:
        w_in: f32[H, 2 D]. b_in: f32[H].
        w_out: f32[H]. b_out: f32[].
        q: from 0 to 1. Data.

    Raises:
        ValueError: a value outside its range.
    """

    w_in: jax.Array
    b_in: jax.Array
    w_out: jax.Array
    b_out: jax.Array
    q: Array | float = 0.5

    def __post_init__(self) -> None:
        if not is_traced(self.q):
            number("QExit: q", self.q, low=0.0, high=1.0)

    def halting(self, seen: AtExit) -> Float[Array, "B"]:
        """The probability with which the exit halts a row that comes to it."""
        both = jnp.concatenate([seen.features, seen.before], axis=-1).astype(jnp.float32)
        return jax.nn.sigmoid(jnp.tanh(both @ self.w_in.T + self.b_in) @ self.w_out + self.b_out)

    def begin(self, batch: int) -> Float[Array, "B"]:
        """The probability of not having halted."""
        return jnp.ones((batch,), jnp.float32)

    def leave(self, seen: AtExit, notes: Float[Array, "B"]) -> tuple[Bool[Array, "B"], Float[Array, "B"]]:
        left = notes * (1 - self.halting(seen))
        return 1 - left >= self.q, left


@dataclass(frozen=True, kw_only=True, eq=False)
class LearnedGate:
    """JEI-DNN's gate: exit k answers where ``sigmoid(weight[k] . u_k + bias[k])`` reaches `threshold`.

    u are three measures of how sure the head is: its highest probability, the lead of that over the next,
    and the entropy in shares of the largest possible. Source: JEI-DNN (https://arxiv.org/abs/2310.09163),
    whose gates see such measures of the predictions alone; which ones is inferred.

    Attributes:
        weight: f32[E, 3]. bias: f32[E].
        threshold: from 0 to 1. Data.

    Raises:
        ValueError: a value outside its range.
    """

    weight: jax.Array
    bias: jax.Array
    threshold: Array | float = 0.5

    def __post_init__(self) -> None:
        if not is_traced(self.threshold):
            number("LearnedGate: threshold", self.threshold, low=0.0, high=1.0)

    def halting(self, seen: AtExit) -> Float[Array, "B"]:
        """The probability with which the exit halts a row that comes to it."""
        return jax.nn.sigmoid(measures(seen.logits) @ self.weight[seen.number] + self.bias[seen.number])

    def begin(self, batch: int) -> tuple[()]:
        return ()

    def leave(self, seen: AtExit, notes: tuple[()]) -> tuple[Bool[Array, "B"], tuple[()]]:
        return self.halting(seen) >= self.threshold, notes


def measures(logits: Float[Array, "B C"]) -> Float[Array, "B 3"]:
    """Highest probability, its lead over the next, and entropy in shares of the largest."""
    p = jax.nn.softmax(logits, axis=-1)
    first, second = jnp.moveaxis(jax.lax.top_k(p, 2)[0], -1, 0)
    entropy = -(p * jnp.log(jnp.maximum(p, 1e-12))).sum(-1) / jnp.log(p.shape[-1])
    return jnp.stack([first, first - second, entropy], axis=-1)


register_dataclass(QExit, ["w_in", "b_in", "w_out", "b_out", "q"], [])
register_dataclass(LearnedGate, ["weight", "bias", "threshold"], [])
