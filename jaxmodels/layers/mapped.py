"""Loops and gradients inside `jax.shard_map`, where types say over which axes of the mesh a value differs."""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
from jax import lax

Carry = TypeVar("Carry")


def varying_like(carry: Carry, *data: jax.Array) -> Carry:
    """The carry with which a loop over `data` begins, of a type that says that it differs where they do.

    A loop's carry must keep its type. One that begins with zeros, which are alike on all devices, would lose
    it in the first round, where data that differs is added.
    """
    axes = frozenset[str]().union(*map(_axes, data))

    def cast(leaf: jax.Array) -> jax.Array:
        missing = tuple(sorted(axes - _axes(leaf)))
        return lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(cast, carry) if axes else carry


def scan(body: Callable[[Carry, Any], tuple[Carry, Any]], carry: Carry, xs: Any) -> tuple[Carry, Any]:
    """`lax.scan` over `xs`, which may differ from device to device where the first carry does not."""
    return lax.scan(body, varying_like(carry, *jax.tree.leaves(xs)), xs)


def summed_like(gradient: jax.Array, value: jax.Array) -> jax.Array:
    """The gradient of `value`, added up over the devices on which that is one and the same."""
    extra = tuple(sorted(_axes(gradient) - _axes(value)))
    return lax.psum(gradient, extra) if extra else gradient


def _axes(a: jax.Array) -> frozenset[str]:
    """The axes of the mesh over which a value differs, none outside `jax.shard_map`."""
    kind = jax.typeof(a)
    # JAX has renamed it between versions.
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying
