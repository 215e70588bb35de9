"""Parameters that lie in the memory of the host, from where a program fetches what it needs of them.

JAX counts the memory that an array lies in as part of its type: layers see where their parameters are, and an
operation that was not made for it refuses an array in host memory.
"""

from typing import Any, TypeVar

import jax

from jaxmodels.layers.spec import Params, walk

Tree = TypeVar("Tree")

# What backends call host memory that a device reads by itself.
MEMORY_KIND = "pinned_host"


def in_host_memory(tree: Any) -> bool:
    """Whether any array of a tree lies in host memory."""
    return any(jax.typeof(leaf).memory_space == jax.memory.Space.Host for leaf in jax.tree.leaves(tree))


def fetched(tree: Tree) -> Tree:
    """The arrays in the memory of the device; those that lie there already stay."""
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, jax.memory.Space.Device) if in_host_memory(leaf) else leaf, tree
    )


def refuse_host_memory(params: Params, what: str) -> None:
    """Raises ValueError, with the parameter named, where one lies in host memory: `what` computes with all
    of it."""
    for path, leaf in walk(params):
        if in_host_memory(leaf):
            raise ValueError(
                f"{what}: parameter {path!r} lies in host memory; load the model without experts='host'"
            )
