"""Whole numbers of two, four or eight bits in 32-bit words, with a scale and a zero point per group.

What GPTQ, AWQ and the packed form of compressed-tensors have in common: a weight ``[F, D]`` is ``(n - z) *
s``, where z and s belong to the row and to the group that the column is in.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.safetensors_io import TensorInfo
from jaxmodels.checks import shown, whole
from jaxmodels.models.hf_config import ConfigError

WORD_BITS = 32
# Numbers of other widths cross the boundaries of words, and libraries differ in how.
WIDTHS = (2, 4, 8)
# One group for all columns.
ONE_GROUP = -1


def unpacked(
    words: UInt32[Array, "..."], bits: int, axis: int, order: Sequence[int] | None = None
) -> Int[Array, "..."]:
    """The numbers in words, which follow one another along `axis`, those of a word from the lowest bits on.

    `order` gives for each number of a word the place, counted from the lowest bits, that it is in.
    """
    places = np.arange(WORD_BITS // bits) if order is None else np.asarray(order)
    shifts = jnp.expand_dims(
        jnp.asarray(places * bits, jnp.uint32), [i for i in range(words.ndim + 1) if i != axis + 1]
    )
    split = jnp.right_shift(jnp.expand_dims(words, axis + 1), shifts) & (2**bits - 1)
    return split.astype(jnp.int32).reshape(*words.shape[:axis], -1, *words.shape[axis + 1 :])


def from_groups(
    numbers: Int[Array, "F D"],
    zeros: Int[Array, "F G"],
    scales: Float[Array, "F G"],
    groups: Int[Array, "D"],
    dtype: str,
) -> Float[Array, "F D"]:
    """``(numbers - zeros) * scales`` with the zeros and scales of the group that each column is in."""
    centred = (numbers - zeros[:, groups]).astype(jnp.float32)
    return (centred * scales.astype(jnp.float32)[:, groups]).astype(dtype)


def group_of_columns(columns: int, group_size: int) -> np.ndarray:
    """The group of each column where groups of `group_size` follow one another."""
    return np.arange(columns, dtype=np.int32) // (columns if group_size == ONE_GROUP else group_size)


def check_groups(scales: TensorInfo, groups: np.ndarray, count: int) -> np.ndarray:
    """The group of each column. Raises CheckpointError where it is not one of those that have scales."""
    if groups.size and not (groups.min() >= 0 and groups.max() < count):
        raise CheckpointError(
            f"{scales.file}: tensor {scales.name!r} has scales of {count} groups, but columns are in groups "
            f"{groups.min()} to {groups.max()}; group_size or g_idx is of another checkpoint"
        )
    return groups


def read_width(settings: Mapping[str, Any]) -> int:
    """The key `bits`, one of `WIDTHS`. Raises ConfigError for anything else."""
    bits = settings.get("bits")
    if bits not in WIDTHS or isinstance(bits, bool | float):
        raise ConfigError(f"bits is {shown(bits)}; expected one of {WIDTHS}")
    return bits


def read_group_size(settings: Mapping[str, Any]) -> int:
    """The key `group_size`, 128 where it is absent. Raises ValueError where it is no size and not -1."""
    size = settings.get("group_size", 128)
    return ONE_GROUP if size in (ONE_GROUP, None) else whole("group_size", size, low=1)
