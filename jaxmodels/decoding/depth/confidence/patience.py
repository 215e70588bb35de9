"""A confidence that waits until the prediction no longer changes."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from jaxmodels.checks import is_traced, number
from jaxmodels.decoding.depth.confidence.confidence import Passed
from jaxmodels.models.depth import Walk
from jaxmodels.pytrees import register_dataclass


@struct.dataclass
class Streak:
    """The prediction so far.

    Attributes:
        token: i32[B, S], the most probable token behind the block that was asked about last, -1 before.
        times: i32[B, S], in how many such blocks before that one it was the same without a break.
    """

    token: jax.Array
    times: jax.Array


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How much of its patience is used up: the blocks asked about in a row that changed nothing of the
    prediction, as a share of `blocks`. Source: PABEE (https://arxiv.org/abs/2006.04152), whose t is `blocks`.

    Attributes:
        blocks: how often the same token must be found again for a confidence of 1. Data.

    Raises:
        ValueError: it is below 1.
    """

    blocks: Array | float = 2

    def __post_init__(self) -> None:
        if not is_traced(self.blocks):
            object.__setattr__(self, "blocks", number("Patience: blocks", self.blocks, low=1))

    def __call__(self, passed: Passed) -> Float[Array, "B S"]:
        """Behind the first block that is asked about nothing has been found again."""
        return jnp.zeros(passed.after.hidden.shape[:2], jnp.float32)

    def begin(self, walk: Walk) -> Streak:
        shape = walk.window.positions.shape
        return Streak(token=jnp.full(shape, -1, jnp.int32), times=jnp.zeros(shape, jnp.int32))

    def follow(self, passed: Passed, found: Streak) -> tuple[Float[Array, "B S"], Streak]:
        token = jnp.argmax(passed.head(passed.after), axis=-1).astype(jnp.int32)
        times = jnp.where(token == found.token, found.times + 1, 0)
        return times / jnp.asarray(self.blocks, jnp.float32), Streak(token=token, times=times)


register_dataclass(Patience, ["blocks"], [])
