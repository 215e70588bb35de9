"""Unmasking by the entropy of each place."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Bool

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.ranking import best, entropy
from jaxmodels.decoding.samplers import check_number


@dataclass(frozen=True)
class EntropyThreshold:
    """An `Unmask`: every place whose entropy is below `threshold`, and always the one of lowest entropy.

    Source: Chen et al. 2025 (dParallel, https://arxiv.org/abs/2509.26488).

    Attributes:
        threshold: nats, of the softmax of the logits.
    """

    threshold: float = 0.5

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        uncertainty = entropy(seen.logits)
        return seen.masked & (uncertainty < self.threshold) | best(-uncertainty, seen.masked)


jax.tree_util.register_dataclass(EntropyThreshold, ["threshold"], [])
