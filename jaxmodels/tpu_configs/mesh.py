"""The mesh of devices that a model is spread over, with five axes that always have the same names."""

import contextlib
import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

from jaxmodels.checks import shown, whole
from jaxmodels.layers.partition import MESH_AXES

Item = TypeVar("Item")


def make_mesh(
    *,
    data: int = 1,
    fsdp: int = 1,
    sequence: int = 1,
    expert: int = 1,
    tensor: int = 1,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh with all of `MESH_AXES`, of which those that are not given have size 1.

    Args:
        data: groups of devices that each compute other rows of a batch.
        fsdp: the same, with each parameter cut over the group and gathered when it is used.
        sequence: devices that share the tokens of a row.
        expert: devices that share the experts of a mixture.
        tensor: devices that share the heads and the inner features of each layer.
        devices: as many as the product of the sizes; by default the first of ``jax.devices()``.

    Raises:
        ValueError: a size below 1, or their product is not the number of devices.
    """
    given = {"data": data, "fsdp": fsdp, "sequence": sequence, "expert": expert, "tensor": tensor}
    sizes = {axis: whole(f"mesh axis {axis!r}", given[axis], low=1) for axis in MESH_AXES}
    needed = math.prod(sizes.values())
    available = list(jax.devices() if devices is None else devices)
    # One process may leave devices idle; of several, each needs its own in the mesh.
    may_leave_some = devices is None and jax.process_count() == 1
    if needed > len(available) or (needed < len(available) and not may_leave_some):
        told = ", ".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1) or "all sizes 1"
        raise ValueError(
            f"mesh: {told} need {needed} devices, and there are {len(available)}; the product of the sizes "
            "must be the number of devices"
        )
    kinds = (AxisType.Auto,) * len(MESH_AXES)
    if devices is None and needed == len(available):
        return jax.make_mesh(tuple(sizes.values()), MESH_AXES, axis_types=kinds)
    array = np.empty(needed, object)
    array[:] = available[:needed]
    return Mesh(array.reshape(tuple(sizes.values())), MESH_AXES, axis_types=kinds)


def mesh_sizes(text: str) -> dict[str, int]:
    """The sizes that a text such as ``"data=2,tensor=4"`` gives, by axis.

    Raises:
        ValueError: an entry of another form, an unknown axis or one given twice, or a size that is no whole
            number.
    """
    sizes: dict[str, int] = {}
    for entry in text.split(","):
        axis, equals, size = (part.strip() for part in entry.partition("="))
        if axis not in MESH_AXES or not equals:
            raise ValueError(
                f"mesh: {shown(entry)} is not of the form axis=size with an axis of {', '.join(MESH_AXES)}"
            )
        if axis in sizes:
            raise ValueError(f"mesh: axis {axis!r} is given twice in {text!r}")
        if not size.isdecimal():
            raise ValueError(f"mesh: the size of axis {axis!r} must be a whole number, got {shown(size)}")
        sizes[axis] = whole(f"mesh axis {axis!r}", int(size), low=1)
    return sizes


def in_use(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """Within it, programs are traced for the mesh; as before for None."""
    return contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh)


def each_in_use(mesh: Mesh | None, items: Iterator[Item]) -> Iterator[Item]:
    """The items, each made with the mesh in use, which it is not from one to the next."""
    while True:
        with in_use(mesh):
            try:
                item = next(items)
            except StopIteration:
                return
        yield item
