"""Confidences that are read off the distribution of the next token, as the head gives it behind a block."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.decoding.depth.confidence.confidence import Passed
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class MaxProbability:
    """The probability of the most probable token: one pass of the head per block that is asked about."""

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        logits = passed.head(passed.after)
        return jnp.exp(logits.max(-1) - jax.nn.logsumexp(logits, axis=-1))


@dataclass(frozen=True)
class ProbabilityGap:
    """The margin: by how much the most probable token leads the next, in probability (CALM's softmax
    response)."""

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        probabilities = jax.nn.softmax(passed.head(passed.after), axis=-1)
        best = jnp.argmax(probabilities, axis=-1, keepdims=True)
        # Two passes over the vocabulary take a fraction of a sort's time on a CPU.
        others = jnp.where(jnp.arange(probabilities.shape[-1]) == best, 0.0, probabilities)
        return probabilities.max(-1) - others.max(-1)


@dataclass(frozen=True)
class Certainty:
    """1 for a distribution that is certain, 0 for an even one: ``1 - entropy / log V``.

    Exits by entropy are from BranchyNet (https://arxiv.org/abs/1709.01686) and DeeBERT; that it is counted in
    shares of the largest possible entropy, and from the other end, is ours: so it grows with confidence, as
    the others do.
    """

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        log_p = jax.nn.log_softmax(passed.head(passed.after), axis=-1)
        negentropy = (jnp.exp(log_p) * jnp.where(jnp.isfinite(log_p), log_p, 0.0)).sum(-1)
        return 1.0 + negentropy / math.log(max(log_p.shape[-1], 2))


register_dataclass(MaxProbability, [], [])
register_dataclass(ProbabilityGap, [], [])
register_dataclass(Certainty, [], [])
