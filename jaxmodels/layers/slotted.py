"""Stacks of which some groups alone are at hand, each in a slot of its own."""

from typing import Any

import jax
from flax import struct


@struct.dataclass
class SlottedStack:
    """Stands where a layer has a stack ``[E, ...]``, for those of its groups that are in slots.

    Attributes:
        slots: ``[N, ...]``, an array or what stands for one.
        place: i32[E], the slot of each group that is in one; of others any.
    """

    slots: Any
    place: jax.Array
