"""How many tokens a model's states have slots for, and what becomes of those that find none: padding."""

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Any, Protocol, runtime_checkable

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxmodels.layers.kv_cache import Limited
from jaxmodels.layers.window import Window
from jaxmodels.models.block import DecoderBlock


@runtime_checkable
class Composite(Protocol):
    """A block, or a mixer that is made of others."""

    def parts(self, state: Any) -> tuple[tuple[Any, Any], ...]:
        """Its mixers, each with its part of a state."""


def mixers(layer: Any, state: Any) -> Iterator[tuple[Any, Any]]:
    """The mixers of a block that are not made of others, each with its part of a state of the block."""
    if not isinstance(layer, Composite):
        yield layer, state
        return
    for part in layer.parts(state):
        yield from mixers(*part)


def token_limit(blocks: Iterable[DecoderBlock], states: Iterable[Any]) -> int | None:
    """How many tokens a row's history may have, pending ones included; None for any number."""
    pairs = (pair for block, state in zip(blocks, states, strict=True) for pair in mixers(block, state))
    limits = [mixer.limit(state) for mixer, state in pairs if isinstance(mixer, Limited)]
    return min((limit for limit in limits if limit is not None), default=None)


def fitted(window: Window, limit: int | None) -> Window:
    """The window with the tokens beyond the first `limit` of a row as padding, in all layers alike.

    One whose tokens go to slots that are given stays as it is.
    """
    if limit is None or window.slots is not None:
        return window
    room = jnp.maximum(limit - window.start, 0)
    return replace(window, valid=jnp.minimum(window.valid, room))


def committable(
    valid: Int[Array, "B"], n: Int[Array, "B"] | None, path: Int[Array, "B P"] | None
) -> Int[Array, "B"]:
    """How many of the first `n` tokens, or of those along `path`, can be committed if `valid` are real.

    A path ends before its first token that is not.
    """
    if path is not None:
        real = (path >= 0) & (path < valid[:, None])
        valid = jnp.cumprod(real.astype(jnp.int32), axis=1).sum(1, dtype=jnp.int32)
    return valid if n is None else jnp.clip(n.astype(jnp.int32), 0, valid)
