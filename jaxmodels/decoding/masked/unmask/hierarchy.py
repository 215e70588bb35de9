"""Unmasking that splits runs of unknown places."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool

from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.ranking import best
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class Hierarchy:
    """An `Unmask`: the most probable place of each unbroken run of unknown ones if it exceeds `low`, every
    place that exceeds `threshold`, and always the most probable one of all.

    Source: dInfer (Ma et al. 2025, https://arxiv.org/abs/2510.08666), ``HierarchyDecoder``.

    Attributes:
        threshold: exceeded by what is filled in anywhere.
        low: exceeded by what is filled in as the best of its run.
    """

    threshold: float = 0.9
    low: float = 0.4

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)
        check_number("low", self.low, low=0.0)

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        probability = seen.probability
        of_run = seen.masked & (probability > self.low) & _best_of_run(probability, seen)
        return of_run | (seen.masked & (probability > self.threshold)) | best(probability, seen.masked)


def _best_of_run(confidence: Array, seen: Seen) -> Bool[Array, "B L"]:
    """The first place of the highest confidence of each run, among those that can be filled in."""
    masked, unknown = seen.masked, seen.still_unknown
    length = masked.shape[1]
    starts = unknown & ~jnp.pad(unknown, ((0, 0), (1, 0)))[:, :-1]
    run = jnp.where(masked, jnp.cumsum(starts, axis=1), 0)  # 0: none
    rows = jnp.arange(masked.shape[0])[:, None]
    highest = jnp.full((masked.shape[0], length + 1), -jnp.inf).at[rows, run].max(confidence)
    is_highest = confidence == jnp.take_along_axis(highest, run, axis=1)
    index = jnp.where(is_highest, jnp.arange(length), length)
    first = jnp.full((masked.shape[0], length + 1), length).at[rows, run].min(index)
    return masked & (jnp.arange(length) == jnp.take_along_axis(first, run, axis=1))


register_dataclass(Hierarchy, ["threshold", "low"], [])
