"""Checks of what masks are made of: lengths, and arrays that name each token's ancestors."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxmodels.checks import is_traced, shown


def check_lengths(name: str, length: Any, batch: int | None) -> None:
    """Raises ValueError unless a mask's `length` is a whole number of at least 0, or one for each row."""
    shape = np.shape(length)
    rows_fit = shape == () or (len(shape) == 1 and batch in (None, shape[0]))
    if not jnp.issubdtype(getattr(length, "dtype", type(length)), jnp.integer) or not rows_fit:
        raise ValueError(
            f"mask: {name} expected a whole length or int[{batch or 'B'}], one for each row of this "
            f"window, got {kind_of(length)}"
        )
    if not is_traced(length) and np.min(length, initial=0) < 0:
        raise ValueError(f"mask: {name} expected lengths of at least 0, got {shown(length)}")


def check_tree(tree: Any) -> None:
    """Raises ValueError where an array with a value names, in some row, anything but a token's ancestors."""
    if is_traced(tree):
        return
    related = np.asarray(tree)
    steps = related.astype(np.float32)
    is_reflexive = related.diagonal(0, -2, -1).all()
    is_transitive = (related | (steps @ steps == 0)).all()
    depth = related.sum(-1)
    generations = depth[..., None] == np.arange(1, related.shape[-1] + 1)
    is_chain = (steps @ generations.astype(np.float32) <= 1).all()
    if not (is_reflexive and is_transitive and is_chain):
        raise ValueError(
            "mask: recurrent layers expected each row to name the token itself and its ancestors, one in "
            f"each generation, got\n{related.astype(int)}"
        )


def kind_of(value: Any) -> str:
    """An array's type and shape; of anything else, what it is."""
    if hasattr(value, "dtype"):
        return f"{value.dtype}{list(value.shape)}"
    return shown(value)
