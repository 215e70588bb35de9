"""Sizes of meshes for a slice."""

import math
from collections.abc import Mapping

from jaxmodels.tpu_configs.slices import Slice


def divisors(number: int) -> list[int]:
    """Whole numbers that divide `number`, the largest first."""
    return [size for size in range(number, 0, -1) if number % size == 0]


def checked(sizes: Mapping[str, int], on: Slice) -> Mapping[str, int]:
    """Raises ValueError where a mesh has another number of devices than the slice."""
    product = math.prod(sizes.values())
    if product != on.devices:
        told = ", ".join(f"{axis}={size}" for axis, size in sizes.items())
        raise ValueError(f"mesh: {told} has {product} devices, and {on.name} has {on.devices}")
    return sizes
