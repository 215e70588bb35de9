"""In which order memory holds the numbers of a parameter, where the order that a backend chooses would cost.

A TPU keeps an array's last two axes in tiles of 8 by 128, and by default puts those axes last that fill tiles
best. Of 128 matrices of 2,880 x 2,880 those are the matrices themselves: a tile then has one number of each,
so that no matrix can be read without the others, and a program that multiplies with a few lays all of them
out anew. Stacks of experts are therefore held matrix by matrix, each row by row.

An order is part of where an array lies, and programs are compiled for the order of their arguments. The
numbers of an array, its shape and what a program computes do not depend on it.
"""

from typing import Any, TypeVar

import jax
from jax.experimental.layout import Format, Layout
from jax.sharding import Sharding

from jaxmodels.layers.host_memory import MEMORY_KIND, in_host_memory
from jaxmodels.layers.spec import Param, Params, ParamTree, unflatten, walk

Leaf = TypeVar("Leaf")


def place_of(param: Param, places: Any) -> Any:
    """Where an abstract parameter lies, with the order in which it is held.

    Args:
        param: which it is.
        places: a sharding, or a tree of them for a parameter that consists of several arrays.

    Returns:
        `places`, of stacks of experts in the memory of devices with a `Format` for each sharding.
    """

    def placed(place: Sharding) -> Sharding | Format:
        if not param.is_expert_stack or place.memory_kind == MEMORY_KIND:
            return place
        return Format(_row_by_row(len(param.shape)), place)

    return jax.tree.map(placed, places)


def ordered(param: Param, leaf: Leaf) -> Leaf:
    """A parameter in the order in which it is held; one that lies so already is given back as it is.

    A stack of experts that a backend has put into another order is copied, and stays on its devices.
    """
    if not param.is_expert_stack or in_host_memory(leaf):
        return leaf

    def in_rows(array: Any) -> Any:
        layout, wanted = array.format.layout, _row_by_row(array.ndim)
        if layout is None or layout.major_to_minor == wanted.major_to_minor:
            return array
        return jax.device_put(array, Format(wanted, array.sharding))

    return jax.tree.map(in_rows, leaf)


def ordered_params(spec: ParamTree, params: Params) -> Params:
    """All parameters in the order in which they are held; see `ordered`."""
    specs = dict(walk(spec))
    return unflatten({path: ordered(specs[path], leaf) for path, leaf in walk(params)}, params)


def _row_by_row(ndim: int) -> Layout:
    return Layout(tuple(range(ndim)))
