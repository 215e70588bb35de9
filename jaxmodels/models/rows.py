"""Rows of a batch of histories: caches are values, so that a row can be had several times."""

from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxmodels.models.language_model import Cache

C = TypeVar("C", bound=Cache)


def repeat_rows(cache: C, times: int) -> C:
    """Each row `times` times, one behind the other: the histories of a batch that goes on in several ways."""
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, times, axis=0), cache)


def take_rows(cache: C, rows: Int[Array, "R"]) -> C:
    """The rows of these numbers, in their order."""
    return jax.tree.map(lambda leaf: jnp.take(leaf, rows, axis=0), cache)
