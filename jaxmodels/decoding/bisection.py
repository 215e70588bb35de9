"""Thresholds found by bisection: what would otherwise need the vocabulary sorted.

A pass over the values is a comparison and a sum, at the speed of the memory that they are in, and some 30 of
them find a threshold exactly. A CPU sorts 50,000 values in 18 times as long.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int


def least_float(
    low: Float[Array, "..."], high: Float[Array, "..."], holds: Callable[[Array], Bool[Array, "..."]]
) -> Float[Array, "..."]:
    """The least float32 in ``[low, high]`` for which `holds` is true, elementwise.

    `holds` must be true from some number on, and is taken to be true for `high`. Neither bound is NaN.
    """
    return _number(least_int(_ordered(low), _ordered(high), lambda bits: holds(_number(bits))))


def least_int(
    low: Int[Array, "..."], high: Int[Array, "..."], holds: Callable[[Array], Bool[Array, "..."]]
) -> Int[Array, "..."]:
    """The same for int32, in as many evaluations as the widest pair of bounds needs; none where they meet."""

    def halve(bounds: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bounds
        middle = (low & high) + ((low ^ high) >> 1)  # the mean rounded down, which cannot overflow
        found = holds(middle)
        return jnp.where(found, low, middle + 1), jnp.where(found, middle, high)

    return lax.while_loop(lambda bounds: (bounds[0] < bounds[1]).any(), halve, (low, high))[1]


def _ordered(x: Float[Array, "..."]) -> Int[Array, "..."]:
    """Integers in the order of the floats; `_number` is the inverse."""
    bits = lax.bitcast_convert_type(x, jnp.int32)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _number(bits: Int[Array, "..."]) -> Float[Array, "..."]:
    return lax.bitcast_convert_type(bits ^ ((bits >> 31) & 0x7FFFFFFF), jnp.float32)
