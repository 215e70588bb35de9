"""What was drafted in the course of a generation, and what became of it: what drafters can learn from."""

from typing import Any

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Int


@struct.dataclass
class DraftRecord:
    """The drafts of a generation, each at the emitted token that was the newest when it was drafted.

    Attributes:
        tokens: i32[B, max_new, n], the first n tokens of each draft.
        drafted: i32[B, max_new], how many of these were drafted; 0 where no draft began.
        accepted: i32[B, max_new], how many of these were accepted.
    """

    tokens: Any
    drafted: Any
    accepted: Any


def empty_record(batch: int, max_new: int, most: int) -> DraftRecord:
    """Room for the first `most` tokens of a draft behind each of `max_new` tokens."""
    none = jnp.zeros((batch, max_new), jnp.int32)
    return DraftRecord(tokens=jnp.zeros((batch, max_new, most), jnp.int32), drafted=none, accepted=none)


def recorded(
    record: DraftRecord,
    length: Int[Array, "B"],
    tokens: Int[Array, "B G"],
    drafted: Int[Array, "B"],
    accepted: Int[Array, "B"],
) -> DraftRecord:
    """The record with a draft behind the first ``length[b]`` emitted tokens, in rows that were drafted any.

    Args:
        tokens: of the drafts, each behind the one before.
        drafted, accepted: how many there are, and how many were accepted.
    """
    rows, (_, size, most) = jnp.arange(tokens.shape[0]), record.tokens.shape
    slot = jnp.where(drafted > 0, length - 1, size)
    tokens = jnp.pad(tokens[:, :most], ((0, 0), (0, max(most - tokens.shape[1], 0))))
    return DraftRecord(
        tokens=record.tokens.at[rows, slot].set(tokens, mode="drop"),
        drafted=record.drafted.at[rows, slot].set(jnp.minimum(drafted, most), mode="drop"),
        accepted=record.accepted.at[rows, slot].set(jnp.minimum(accepted, most), mode="drop"),
    )
