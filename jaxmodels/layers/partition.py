"""What layers know of the mesh of devices that a program runs on: the names of its axes, and their sizes.

Most layers need not know: the compiler splits them as their parameters are split. A layer that moves tokens
between devices asks `axis_size` while it is traced, and gets 1 where there is no mesh.
"""

import math

import jax

# Outermost first: devices that are neighbours along the last axis exchange the most.
MESH_AXES = ("data", "fsdp", "sequence", "expert", "tensor")


def axis_size(*axes: str) -> int:
    """Devices along these axes of the mesh that the program is traced for, in all; 1 without a mesh."""
    sizes = jax.sharding.get_abstract_mesh().shape
    return math.prod(sizes.get(axis, 1) for axis in axes)
