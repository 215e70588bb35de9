"""Unmasking with less caution around places that are certain."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.unmask.ranking import best
from jaxmodels.decoding.samplers import check_number
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class LocalLeap:
    """An `Unmask`: unknown places of at least `threshold` are anchors; they are filled in, and with them the
    places up to `radius` away from one whose probability is at least `relaxed`. Always the most probable one.

    Source: Kong et al. 2025 (https://arxiv.org/abs/2510.07081), by a copy of the authors' program.

    Attributes:
        threshold: of anchors.
        relaxed: of places near them.
        radius: places on either side.

    Raises:
        ValueError: a value outside its range, or `relaxed` above `threshold`.
    """

    threshold: float = 0.9
    relaxed: float = 0.75
    radius: int = 4

    def __post_init__(self) -> None:
        check_number("threshold", self.threshold, low=0.0)
        check_number("relaxed", self.relaxed, low=0.0)
        if not is_traced(self.radius):
            whole("radius", self.radius)
        if not is_traced(self.threshold) and not is_traced(self.relaxed) and self.relaxed > self.threshold:
            raise ValueError(
                f"relaxed={self.relaxed} must not exceed threshold={self.threshold}: places near an anchor "
                "are filled in more readily than others"
            )

    def __call__(self, seen: Seen) -> Bool[Array, "B L"]:
        anchors = seen.masked & (seen.probability >= self.threshold)
        index = jnp.arange(anchors.shape[1])
        far = anchors.shape[1] + self.radius
        before = lax.cummax(jnp.where(anchors, index, -far), axis=1)
        behind = lax.cummin(jnp.where(anchors, index, index[-1] + far), axis=1, reverse=True)
        is_near = (index - before <= self.radius) | (behind - index <= self.radius)
        leaps = seen.masked & is_near & (seen.probability >= self.relaxed)
        return anchors | leaps | best(seen.probability, seen.masked)


register_dataclass(LocalLeap, ["threshold", "relaxed", "radius"], [])
