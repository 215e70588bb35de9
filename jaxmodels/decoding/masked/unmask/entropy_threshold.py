"""Unmasking by the entropy of each place."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.ranking import best, entropy
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class EntropyThreshold:
    """An `Unmask`: every place whose entropy is below `threshold`, and always the one of lowest entropy.

    Sources: Chen et al. 2025 (dParallel, https://arxiv.org/abs/2509.26488); with `per_place`, Liu et al. 2025
    (WeDLM, https://arxiv.org/abs/2512.22737) and its released code, whose values are 0.4 and 0.02.

    Attributes:
        threshold: nats, of the softmax of the logits.
        per_place: nats that are added for each place that lies between the first unknown one and this one,
            so that places that come early are filled in first.
    """

    threshold: float = 0.5
    per_place: float = 0.0

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)
        check_number("per_place", self.per_place, low=0.0)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        first = jnp.argmax(seen.masked, axis=1)[:, None]
        ahead = jnp.maximum(jnp.arange(seen.masked.shape[1]) - first, 0)
        uncertainty = entropy(seen.logits) + self.per_place * ahead
        return seen.masked & (uncertainty < self.threshold) | best(-uncertainty, seen.masked)


register_dataclass(EntropyThreshold, ["threshold", "per_place"], [])
