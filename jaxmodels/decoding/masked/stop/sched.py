"""An exit whose threshold falls with the progress of a block."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced, whole
from jaxmodels.decoding.masked.seen import Seen
from jaxmodels.decoding.masked.stop.schedules import Cosine, Schedule
from jaxmodels.decoding.masked.unmask.ranking import top_two
from jaxmodels.decoding.samplers import check_number
from jaxmodels.decoding.strategy import check_policy
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Calm:
    """What `SchED` remembers of a block.

    Attributes:
        likeliest: i32[B, L], the most probable tokens of the step before.
        steps: i32[B], the last steps in a row in which few of them changed.
    """

    likeliest: jax.Array
    steps: jax.Array


@dataclass(frozen=True, kw_only=True)
class SchED:
    """A `Stop`: the rest of a block is filled in when the mean logit margin of its unknown places, the most
    probable token's lead over the next, is at least a threshold that falls from step to step.

    Source: Mohamed et al. 2025 (SchED, https://arxiv.org/abs/2512.02892). Its defaults are these. The
    released program also waits until no unknown place prefers another token than in the step before, which is
    ``most_changed=0.0``; it counts progress and margins over the whole answer, which is a block as long as
    the answer.

    Attributes:
        threshold: the schedule.
        least_progress: share of the block's places that must be filled in before, 0 to 1.
        most_changed: a step is calm if at most this share of the unknown places prefer another token than in
            the step before, 0 to 1. A block's first step is calm only if this is 1.
        patience: calm steps in a row that must have gone before.
    """

    threshold: Schedule = Cosine()
    least_progress: float = 0.0
    most_changed: float = 1.0
    patience: int = 0

    def __post_init__(self) -> None:
        check_policy("threshold", self.threshold, "__call__", "Cosine()")
        check_number("least_progress", self.least_progress, low=0.0, high=1.0)
        check_number("most_changed", self.most_changed, low=0.0, high=1.0)
        if not is_traced(self.patience):
            whole("patience", self.patience)

    def begin(self, batch: int, length: int, vocab: int) -> Calm:
        none = jnp.zeros((batch,), jnp.int32)
        return Calm(likeliest=jnp.full((batch, length), -1, jnp.int32), steps=none)

    def fuse(self, seen: Seen) -> tuple[Float[Array, "B L V"], Calm]:
        before: Calm = seen.memory
        likeliest = jnp.argmax(seen.logits, axis=-1).astype(jnp.int32)
        changed = _mean((likeliest != before.likeliest).astype(jnp.float32), seen.masked)
        is_calm = (changed <= self.most_changed) & self._has_progressed(seen)
        return seen.logits, Calm(likeliest=likeliest, steps=jnp.where(is_calm, before.steps + 1, 0))

    def __call__(self, seen: Seen, tokens: Int[Array, "B L"]) -> Bool[Array, "B"]:
        first, second = top_two(seen.logits)
        last = seen.steps - 1
        time = jnp.where(last > 0, jnp.clip(seen.step / jnp.maximum(last, 1), 0.0, 1.0), 1.0)
        is_sure = _mean(first - second, seen.masked) >= self.threshold(time)
        waited = seen.memory.steps > self.patience
        return seen.masked.any(1) & is_sure & waited & self._has_progressed(seen)

    def _has_progressed(self, seen: Seen) -> Bool[Array, "B"]:
        unknown = seen.masked.sum(1) / jnp.maximum(seen.initial, 1)
        return 1 - unknown >= self.least_progress


def _mean(values: Float[Array, "B L"], places: Bool[Array, "B L"]) -> Float[Array, "B"]:
    """Over these places; 0 where there are none."""
    return jnp.where(places, values, 0.0).sum(1) / jnp.maximum(places.sum(1), 1)


register_dataclass(SchED, ["threshold", "least_progress", "most_changed", "patience"], [])
