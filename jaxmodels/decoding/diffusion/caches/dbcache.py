"""DBCache: the first and the last blocks are always run, the others where the first ones ask for it."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, number, whole
from jaxmodels.decoding.diffusion.caches.cache import Step
from jaxmodels.decoding.diffusion.caches.changes import change, middle, run_front
from jaxmodels.decoding.diffusion.caches.residuals import nothing_added, run_or_add, zeros_like
from jaxmodels.decoding.diffusion.caches.schedules import check_within
from jaxmodels.decoding.diffusion.samplers.sampler import Plan
from jaxmodels.models.denoisers.denoiser import Denoiser, Streams
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class DBCacheRow:
    """A step of `DBCache`.

    Attributes:
        warm: bool[], whether all blocks are run whatever the signal says.
        threshold: f32[].
        most_in_a_row: i32[].
    """

    warm: Any
    threshold: Any
    most_in_a_row: Any


@struct.dataclass
class DBCacheState:
    """What is kept of the last step in which all blocks ran.

    Attributes:
        signal: [B, S, D], what its first blocks added to the stream.
        kept: what the blocks in the middle added.
        in_a_row: i32[], how many steps ago it was.
    """

    signal: jax.Array
    kept: Streams
    in_a_row: jax.Array


@dataclass(frozen=True, eq=False)
class DBCache:
    """A `StepCache` that runs the first blocks in every step, and compares what they add to the stream with
    what they added when all blocks last ran. Where it is close, those in the middle add what they added
    then, and the last ones run upon that (https://github.com/vipshop/cache-dit, by whose names this is
    F`first`B`last`).

    Attributes:
        first: so many blocks are always run first.
        last: so many are always run at the end.
        threshold: the blocks in the middle are left out where the change is less, see `change`.
        warmup: in so many steps, from the first, all blocks are run.
        most_in_a_row: the most steps without the middle blocks one after the other; None for any number.

    Raises:
        ValueError: an option outside its range; when used, a warm-up longer than the run, or a model that has
            no blocks in the middle.
    """

    first: int = 8
    last: int = 0
    threshold: float = 0.08
    warmup: int = 8
    most_in_a_row: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "first", whole("first", self.first, low=1))
        object.__setattr__(self, "last", whole("last", self.last))
        if is_traced(self.threshold):
            return
        object.__setattr__(self, "threshold", number("threshold", self.threshold, low=0.0))
        object.__setattr__(self, "warmup", whole("warmup", self.warmup, low=1))
        if self.most_in_a_row is not None:
            object.__setattr__(self, "most_in_a_row", whole("most_in_a_row", self.most_in_a_row))

    def rows(self, denoiser: Denoiser, plan: Plan) -> DBCacheRow:
        """Warm-up and thresholds.

        Raises:
            ValueError: `warmup` is longer than the run.
        """
        steps = plan.calls
        check_within("warmup", self.warmup, steps)
        most = steps if self.most_in_a_row is None else self.most_in_a_row
        return DBCacheRow(
            warm=np.arange(steps) < self.warmup,
            threshold=np.full(steps, self.threshold, np.float32),
            most_in_a_row=np.full(steps, most, np.int32),
        )

    def begin(self, step: Step) -> DBCacheState:
        """No step."""
        kept = nothing_added(step, middle(step, self.first, self.last))
        signal = zeros_like(jax.eval_shape(lambda step: run_front(step, self.first)[1], step))
        return DBCacheState(signal, kept, jnp.array(0, jnp.int32))

    def denoise(
        self, step: Step, row: DBCacheRow, state: DBCacheState
    ) -> tuple[Float[Array, "B H W C"], DBCacheState, Float[Array, ""]]:
        """See `StepCache.denoise`."""
        behind, signal = run_front(step, self.first)
        close = change(signal, state.signal) < row.threshold
        fresh = row.warm | (state.in_a_row >= row.most_in_a_row) | ~close
        blocks = middle(step, self.first, self.last)
        streams, kept = run_or_add(step, behind, blocks, fresh, state.kept)
        if self.last:
            streams = step.run(streams, range(blocks.stop, blocks.stop + self.last))
        state = DBCacheState(
            signal=jnp.where(fresh, signal, state.signal),
            kept=kept,
            in_a_row=jnp.where(fresh, 0, state.in_a_row + 1),
        )
        computed = self.first + self.last + jnp.where(fresh, float(len(blocks)), 0.0)
        return step.finish(streams), state, computed


register_dataclass(DBCache, ["threshold", "warmup", "most_in_a_row"], ["first", "last"])
