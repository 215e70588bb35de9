"""Rows of a batch of histories: caches are values, so that a row can be had several times."""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxmodels.models import cache as decoder
from jaxmodels.models.language_model import Cache

C = TypeVar("C", bound=Cache)


def repeat_rows(cache: C, times: int) -> C:
    """Each row `times` times, one behind the other: the histories of a batch that goes on in several ways."""
    return _of_rows(lambda leaf: jnp.repeat(leaf, times, axis=0), cache)


def take_rows(cache: C, rows: Int[Array, "R"]) -> C:
    """The rows of these numbers, in their order."""
    return _of_rows(lambda leaf: jnp.take(leaf, rows, axis=0), cache)


def _of_rows(change: Callable[[Array], Array], cache: C) -> C:
    """The cache with each array of rows changed; what layers keep for all rows stays."""
    if not isinstance(cache, decoder.Cache):
        return jax.tree.map(change, cache)
    changed = jax.tree.map(change, replace(cache, kept=()))
    return replace(changed, kept=cache.kept)
