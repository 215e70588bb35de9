"""Which numbers of a weight share a scale."""

import math
from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float


def scale_shape(
    shape: tuple[int, ...], contracted: tuple[int, ...], groups: Sequence[int]
) -> tuple[int, ...] | None:
    """The shape of a weight's scales: one for each output, or for each output and group of inputs.

    Args:
        shape: the weight's.
        contracted: the dimensions of its inputs, which follow one another, counted from the last.
        groups: sizes of a group, of which the first that divides the inputs counts; none for one group.

    A group larger than the last of several input dimensions holds whole slices of it. None where no size of a
    group divides the inputs.
    """
    axes = [len(shape) + axis for axis in contracted]
    if not groups:
        return tuple(1 if i in axes else size for i, size in enumerate(shape))
    for group in groups:
        counts = _counts([shape[axis] for axis in axes], group)
        if counts is not None:
            found = dict(zip(axes, counts, strict=True))
            return tuple(found.get(i, size) for i, size in enumerate(shape))
    return None


def _counts(sizes: Sequence[int], group: int) -> list[int] | None:
    """How many scales there are along input dimensions of these sizes, from the last one inwards."""
    counts: list[int] = []
    for size in reversed(sizes):
        if group >= size and group % size == 0:
            counts.append(1)
            group //= size
        elif size % group == 0:
            counts.append(size // group)
            group = 1
        else:
            return None
    return counts[::-1] if group == 1 else None


def largest(w: Float[Array, "*shape"], blocks: tuple[int, ...]) -> Float[Array, "*blocks"]:
    """The largest magnitude in each block of `w`, of which there are `blocks` along each dimension."""
    split = [part for size, count in zip(w.shape, blocks, strict=True) for part in (count, size // count)]
    within = tuple(range(1, 2 * w.ndim, 2))
    return jnp.abs(w).reshape(split).max(axis=within)


def inputs_of(shape: tuple[int, ...], contracted: tuple[int, ...]) -> int:
    """How many numbers each product with the weight sums over."""
    return math.prod(shape[axis] for axis in contracted)
