"""Unmasking as many places as their entropies bound the error of filling them in together."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.confidence import Confidence, NegativeEntropy, check_confidence
from jaxmodels.decoding.masked.unmask.ranking import entropy, ranks
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class EntropyBounded:
    """An `Unmask`: the most places, by falling confidence, whose entropies without the greatest of them sum
    to at most `bound`; at least one.

    That bounds the mutual information of what is filled in together. Each row has its own sum. Source:
    Ben-Hamu et al. 2025 (EB-Sampler, https://arxiv.org/abs/2505.24857).

    Attributes:
        bound: nats.
        by: the order of places, which the paper calls the error proxy.
    """

    bound: float = 0.1
    by: Confidence = NegativeEntropy()

    def __post_init__(self) -> None:
        check_number("bound", self.bound, low=0.0)
        check_confidence(self.by)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        place = ranks(self.by(seen), seen.masked)
        order = jnp.argsort(place, axis=1)
        sorted_entropy = jnp.take_along_axis(jnp.where(seen.masked, entropy(seen.logits), 0.0), order, axis=1)
        excess = jnp.cumsum(sorted_entropy, axis=1) - lax.cummax(sorted_entropy, axis=1)
        within = (excess <= self.bound) | (jnp.arange(order.shape[1]) == 0)
        return seen.masked & jnp.take_along_axis(within, place, axis=1)


register_dataclass(EntropyBounded, ["bound", "by"], [])
