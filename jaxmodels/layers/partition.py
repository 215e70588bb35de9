"""What layers know of the mesh of devices that a program runs on: the names of its axes, and their sizes.

Most layers need not know: the compiler splits them as their parameters are split. A layer that moves tokens
between devices asks `axis_size` while it is traced, and gets 1 where there is no mesh, and inside
`jax.shard_map`, where each device computes with its own part.
"""

import math
from collections.abc import Mapping, Sequence

import jax
from jax import lax
from jax.sharding import PartitionSpec

# Outermost first: devices that are neighbours along the last axis exchange the most.
MESH_AXES = ("data", "fsdp", "sequence", "expert", "tensor")
# Those that rows of a batch are spread over. Along "expert", tokens meet again in mixtures of experts alone.
ROW_AXES = ("data", "fsdp", "expert")


def axis_size(*axes: str) -> int:
    """Devices along these axes of the mesh that the program is traced for, in all; 1 without a mesh."""
    mesh = jax.sharding.get_abstract_mesh()
    return math.prod(mesh.shape[axis] for axis in axes if axis in mesh.shape and axis not in mesh.manual_axes)


def leading_axes(size: int, axes: Sequence[str], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """As many of the mesh axes, from the first on, as divide a dimension of this size together."""
    products = [math.prod(sizes[axis] for axis in axes[:count]) for count in range(len(axes) + 1)]
    return tuple(axes[: max(count for count, product in enumerate(products) if size % product == 0)])


def row_axes(batch: int) -> tuple[str, ...]:
    """The axes of the mesh in use that this many rows are spread over."""
    axes = [axis for axis in ROW_AXES if axis_size(axis) > 1]
    return leading_axes(batch, axes, {axis: axis_size(axis) for axis in axes})


def rows_and_heads(shape: tuple[int, ...]) -> PartitionSpec:
    """How an array [B, ...] or [B, K, ...] is spread by rows and, where "tensor" divides them, by heads."""
    devices = axis_size("tensor")
    heads = ("tensor" if devices > 1 and count % devices == 0 else None for count in shape[1:2])
    return PartitionSpec(row_axes(shape[0]) or None, *heads)


def spread_rows(x: jax.Array) -> jax.Array:
    """`x` with its rows, the first axis, left to as many devices of `ROW_AXES` as divide them.

    Features are then whole on each device. The compiler would cut them as the parameters that "fsdp" cuts,
    and add up parts of features where it can gather a parameter once for all tokens.
    """
    spread = row_axes(x.shape[0])
    if not spread:
        return x
    free = (PartitionSpec.UNCONSTRAINED,) * (x.ndim - 2)
    return lax.with_sharding_constraint(x, PartitionSpec(spread, *free, None))
