"""Some of a window's tokens as a window of their own, for blocks that are shown nothing of the others."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Int

from jaxmodels.layers.window import Window, take_path
from jaxmodels.models.block import Stream


@struct.dataclass
class ShownTokens:
    """What `commit` needs of a pass whose block is shown some tokens of the window.

    Attributes:
        pending: the block's, of the window of these tokens.
        tokens: bool[B, S], which they are.
        places: i32[B, S], where each of the window's tokens lies in theirs.
    """

    pending: Any
    tokens: jax.Array
    places: jax.Array

    def taken(
        self, n: Int[Array, "B"] | None, path: Int[Array, "B P"] | None
    ) -> tuple[Int[Array, "B"] | None, Int[Array, "B P"] | None]:
        """What to commit of their window where the first n tokens of the whole one (of `path`, if given)
        become history."""
        if n is None:
            return None, None
        if path is None:
            counts = jnp.arange(self.tokens.shape[1]) < n[:, None]
            return (self.tokens & counts).sum(1), None
        counts = (jnp.arange(path.shape[1]) < n[:, None]) & take_path(self.tokens, path)
        order = jnp.argsort(~counts, axis=1, stable=True)
        return counts.sum(1), take_path(take_path(self.places, path), order)


@dataclass(frozen=True)
class ChosenTokens:
    """Some tokens of a window, and the window of them. Built inside a trace.

    Attributes:
        window: in which they come first, in their order, at their own positions.
        order: i32[B, S], the window's token at each place of it.
        places: i32[B, S], the inverse.
    """

    window: Window
    order: Int[Array, "B S"]
    places: Int[Array, "B S"]

    def around(self, read: Callable[[Stream], Stream]) -> Callable[[Stream], Stream]:
        """`read` of the packed window, for streams of the whole one. What it gives for tokens that are not
        among the chosen is meaningless."""

        def unpacked(stream: Stream) -> Stream:
            return _rearranged(read(_rearranged(stream, self.order)), self.places)

        return unpacked

    def packed(self, stream: Stream) -> Stream:
        return _rearranged(stream, self.order)


def choose(window: Window, tokens: Bool[Array, "B S"]) -> ChosenTokens:
    """The window of `tokens`, which must be real."""
    order = jnp.argsort(~tokens, axis=1, stable=True).astype(jnp.int32)
    index = order if window.index is None else take_path(window.index, order)
    rotations = {
        rope: jax.tree.map(lambda made: take_path(made, order), made)
        for rope, made in window.rotations.items()
    }
    return ChosenTokens(
        window=replace(
            window,
            positions=take_path(window.positions, order),
            valid=tokens.sum(1).astype(jnp.int32),
            index=index,
            rotations=MappingProxyType(rotations),
        ),
        order=order,
        places=jnp.argsort(order, axis=1).astype(jnp.int32),
    )


def _rearranged(stream: Stream, order: Int[Array, "B S"]) -> Stream:
    """The stream with each row's tokens in this order."""
    logits, condition = stream.router_logits, stream.condition
    return replace(
        stream,
        hidden=take_path(stream.hidden, order),
        embedded=take_path(stream.embedded, order),
        router_logits=None if logits is None else take_path(logits, order),
        condition=take_path(condition, order) if condition is not None and condition.ndim == 3 else condition,
    )
