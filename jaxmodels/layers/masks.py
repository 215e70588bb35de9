"""Masks: small policies that say which tokens a token sees, for windows against a history.

A mask answers for pairs of a query, which is a token of the window, and a key, which is one of the window or
of the history. It may look at their positions, at their places in the window, and at whether the key is
history. It also bounds what a block of queries can see at all, so that attention visits no other keys.

Masks are pytrees and pass through `jax.jit`: sizes are part of the program, lengths per row and trees are
data. In the pictures below, rows are queries, columns are keys, and x says that the query sees the key.

A recurrent layer holds its whole history in one state and cannot leave any of it out. It runs a window in
order under every mask, or along the branches of a tree where the mask makes the window one (`tree_of`).
"""

import functools
import operator
from dataclasses import dataclass
from typing import Any, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from jaxmodels.checks import is_traced, shown, whole
from jaxmodels.layers.mask_checks import check_lengths, check_tree, kind_of
from jaxmodels.pytrees import register_dataclass

# A bool array, or a single bool, that broadcasts to the shape asked for.
Answer: TypeAlias = Any


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where tokens stand, in arrays that broadcast against those of other tokens.

    Attributes:
        positions: their logical positions.
        index: their places in the window as the caller gave it; of no meaning in the history. None where a
            mask does not ask.
        is_history: whether they were committed before the window. None where a mask does not ask.
    """

    positions: Any
    index: Any = None
    is_history: Any = None


@runtime_checkable
class Mask(Protocol):
    """Which tokens a token sees. Implementations are frozen dataclasses and pytrees."""

    @property
    def by_position(self) -> bool:
        """Whether it asks for positions alone."""

    def sees(self, queries: Places, keys: Places) -> Answer:
        """Whether each query sees each key: [B, S, T] of places [B, S, 1] and [B, 1, T]."""

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        """Which keys queries at positions from `low` to below `high` may see; never fewer than they do.

        Keys are [B, T], bounds are integers or [B, 1]. It is to be computed by operators alone, so that the
        answer has a value wherever all of these have one, and the mask's own arrays too.
        """

    def check(self, size: int, batch: int | None) -> None:
        """Raises ValueError where the mask does not fit a window of `size` tokens (in `batch` rows)."""


@runtime_checkable
class Narrowing(Protocol):
    """A mask that says itself what a layer's sliding window leaves of it; see `in_layer`."""

    def narrowed(self, side: int) -> Mask:
        """The mask in a layer whose tokens see `side` positions beside their own."""


# An array is short for `Ancestors`.
MaskLike: TypeAlias = Mask | jax.Array | np.ndarray


@dataclass(frozen=True)
class Causal:
    """A token sees itself and every token at an earlier position.

    ::

        x . . .
        x x . .
        x x x .
        x x x x
    """

    by_position = True

    def sees(self, queries: Places, keys: Places) -> Answer:
        return keys.positions <= queries.positions

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        return keys.positions < high

    def check(self, size: int, batch: int | None) -> None:
        """It fits every window."""


@dataclass(frozen=True)
class Bidirectional:
    """A token sees the whole history and the whole window.

    ::

        x x x x
        x x x x
        x x x x
        x x x x
    """

    by_position = True

    def sees(self, queries: Places, keys: Places) -> Answer:
        return np.True_

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        return np.True_

    def check(self, size: int, batch: int | None) -> None:
        """It fits every window."""


@dataclass(frozen=True)
class BlockCausal:
    """Positions are cut into blocks of `block`; a token sees its own block whole, and all earlier ones.

    With ``block=2``::

        x x . .
        x x . .
        x x x x
        x x x x

    Raises:
        ValueError: `block` is not a whole number of at least 1.
    """

    block: int

    by_position = True

    def __post_init__(self) -> None:
        whole("BlockCausal: block", self.block, low=1)

    def sees(self, queries: Places, keys: Places) -> Answer:
        return keys.positions // self.block <= queries.positions // self.block

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        return keys.positions // self.block <= (high - 1) // self.block

    def check(self, size: int, batch: int | None) -> None:
        """It fits every window."""


@dataclass(frozen=True)
class Chunks:
    """Positions are cut into chunks of `size`; a token sees those of its own chunk, on both sides.

    With ``size=2``::

        x x . .
        x x . .
        . . x x
        . . x x

    Raises:
        ValueError: `size` is not a whole number of at least 1.
    """

    size: int

    by_position = True

    def __post_init__(self) -> None:
        whole("Chunks: size", self.size, low=1)

    def sees(self, queries: Places, keys: Places) -> Answer:
        return keys.positions // self.size == queries.positions // self.size

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        chunk = keys.positions // self.size
        return (chunk >= low // self.size) & (chunk <= (high - 1) // self.size)

    def check(self, size: int, batch: int | None) -> None:
        """It fits every window."""


@dataclass(frozen=True, kw_only=True)
class Sliding:
    """A token sees itself, the `before` positions ahead of its own and the `after` behind it; None: all.

    With ``before=1, after=2``::

        x x x . .
        x x x x .
        . x x x x
        . . x x x
        . . . x x

    Raises:
        ValueError: a bound is neither None nor a whole number.
    """

    before: int | None = None
    after: int | None = None

    by_position = True

    def __post_init__(self) -> None:
        for name in ("before", "after"):
            if getattr(self, name) is not None:
                whole(f"Sliding: {name}", getattr(self, name))

    def sees(self, queries: Places, keys: Places) -> Answer:
        return self.within_reach(queries.positions, queries.positions + 1, keys)

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        seen: Answer = np.True_
        if self.before is not None:
            seen = keys.positions >= low - self.before
        if self.after is not None:
            seen = seen & (keys.positions < high + self.after)
        return seen

    def check(self, size: int, batch: int | None) -> None:
        """It fits every window."""


@dataclass(frozen=True)
class Prefix:
    """All see the first `length` positions, which see one another; the rest is causal.

    With ``length=2``::

        x x . .
        x x . .
        x x x .
        x x x x

    Attributes:
        length: one for all rows, or i32[B], one for each.
    """

    length: int | Int[Array, "B"]

    by_position = True

    def sees(self, queries: Places, keys: Places) -> Answer:
        return (keys.positions <= queries.positions) | (keys.positions < by_row(self.length, keys))

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        return (keys.positions < high) | (keys.positions < by_row(self.length, keys))

    def check(self, size: int, batch: int | None) -> None:
        check_lengths("Prefix", self.length, batch)


@dataclass(frozen=True)
class Ancestors:
    """A token sees the whole history, and those tokens of the window that the array names.

    Token 0 with the children 1 and 2, token 3 a child of 1, behind two tokens of history::

        history  window
          x x    x . . .
          x x    x x . .
          x x    x . x .
          x x    x x . x

    Attention takes any array. Recurrent layers, whose state follows one branch, need a tree: each token's
    row names the token itself and its ancestors, which are an ancestor of one another.

    Attributes:
        tree: bool[S, S] or bool[B, S, S], by place in the window; whether query i sees key j, at [i, j].
    """

    tree: Bool[Array, "... S S"] | np.ndarray

    by_position = False

    def sees(self, queries: Places, keys: Places) -> Answer:
        at: tuple[Any, ...] = (queries.index, keys.index)
        if self.tree.ndim > 2 and self.tree.shape[0] > 1:
            at = (jnp.arange(self.tree.shape[0])[:, None, None], *at)
        tree = jnp.asarray(self.tree).reshape(self.tree.shape[-len(at) :])
        return keys.is_history | tree.at[at].get(mode="clip")

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        return np.True_

    def check(self, size: int, batch: int | None) -> None:
        shape = jnp.shape(self.tree)
        rows_fit = len(shape) == 2 or batch is None or shape[0] in (1, batch)
        fits = shape[-2:] == (size, size) and len(shape) in (2, 3) and rows_fit
        if not fits or self.tree.dtype != jnp.bool_:
            raise ValueError(
                f"mask: expected bool[{size}, {size}] or bool[{batch or 'B'}, {size}, {size}] for this "
                f"window, got {kind_of(self.tree)}"
            )


@dataclass(frozen=True)
class All:
    """A token sees what it sees under each of the masks. Causal, and sliding with ``before=1``::

    x . . .
    x x . .
    . x x .
    . . x x
    """

    masks: tuple[Mask, ...]

    @property
    def by_position(self) -> bool:
        return all(isinstance(mask, Mask) and mask.by_position for mask in self.masks)

    def sees(self, queries: Places, keys: Places) -> Answer:
        return functools.reduce(operator.and_, [mask.sees(queries, keys) for mask in self.masks])

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        return functools.reduce(operator.and_, [mask.within_reach(low, high, keys) for mask in self.masks])

    def check(self, size: int, batch: int | None) -> None:
        _check_parts("All", self.masks, size, batch)


@dataclass(frozen=True)
class Either:
    """A token sees what it sees under any of the masks. Causal, or chunks of 2::

    x x . .
    x x . .
    x x x x
    x x x x
    """

    masks: tuple[Mask, ...]

    @property
    def by_position(self) -> bool:
        return all(isinstance(mask, Mask) and mask.by_position for mask in self.masks)

    def sees(self, queries: Places, keys: Places) -> Answer:
        return functools.reduce(operator.or_, [mask.sees(queries, keys) for mask in self.masks])

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        return functools.reduce(operator.or_, [mask.within_reach(low, high, keys) for mask in self.masks])

    def check(self, size: int, batch: int | None) -> None:
        _check_parts("Either", self.masks, size, batch)


@dataclass(frozen=True, kw_only=True)
class Split:
    """One rule for what is history, another for the window itself.

    Sliding with ``before=2`` over the history, bidirectional inside a window of two behind four others::

        history  window
        . . x x   x x
        . . . x   x x
    """

    history: Mask
    window: Mask

    by_position = False

    def sees(self, queries: Places, keys: Places) -> Answer:
        inside = self.window.sees(queries, keys)
        return self._choose(keys, self.history.sees(queries, keys), inside)

    def within_reach(self, low: Any, high: Any, keys: Places) -> Answer:
        inside = self.window.within_reach(low, high, keys)
        return self._choose(keys, self.history.within_reach(low, high, keys), inside)

    def check(self, size: int, batch: int | None) -> None:
        _check_parts("Split", (self.history, self.window), size, batch)

    def _choose(self, keys: Places, history: Answer, inside: Answer) -> Answer:
        return (keys.is_history & history) | (~keys.is_history & inside)


for _kind_of_tree, _data, _static in (
    (Places, ["positions", "index", "is_history"], []),
    (Causal, [], []),
    (Bidirectional, [], []),
    (BlockCausal, [], ["block"]),
    (Chunks, [], ["size"]),
    (Sliding, [], ["before", "after"]),
    (Prefix, ["length"], []),
    (Ancestors, ["tree"], []),
    (All, ["masks"], []),
    (Either, ["masks"], []),
    (Split, ["history", "window"], []),
):
    register_dataclass(_kind_of_tree, _data, _static)

CAUSAL = Causal()
BIDIRECTIONAL = Bidirectional()


def as_mask(mask: MaskLike) -> Mask:
    """The mask that an array is short for; any other is itself."""
    return mask if isinstance(mask, Mask) else Ancestors(mask)


def in_layer(mask: MaskLike, sliding_window: int | None, chunk: int | None) -> Mask:
    """The mask of a layer whose tokens see only so many positions, or only their own chunk of positions.

    A sliding window holds a token's own position and ``sliding_window - 1`` others before it, and as many
    behind it wherever the mask is not causal and does not say otherwise itself.
    """
    mask = as_mask(mask)
    if chunk is not None:
        return All((mask, Chunks(chunk)))
    if sliding_window is None:
        return mask
    side = sliding_window - 1
    if isinstance(mask, Narrowing):
        return mask.narrowed(side)
    return All((mask, Sliding(before=side, after=None if isinstance(mask, Causal) else side)))


def tree_of(mask: MaskLike) -> Bool[Array, "... S S"] | np.ndarray | None:
    """The ancestors of each token where the mask makes the window a tree; else None: tokens in order.

    Raises:
        ValueError: the mask joins a tree with another rule, which is no tree, or the array of an `Ancestors`
            is none. An array that has no value yet, inside a compiled program, passes.
    """
    mask = as_mask(mask)
    if isinstance(mask, Ancestors):
        check_tree(mask.tree)
        return mask.tree
    if isinstance(mask, Split):
        return tree_of(mask.window)
    if not isinstance(mask, All | Either):
        return None
    trees = [tree for tree in map(tree_of, mask.masks) if tree is not None]
    if trees and isinstance(mask, Either):
        raise ValueError(
            "mask: Either joins Ancestors with another rule, so that the window is no tree; recurrent "
            "layers, whose state follows one branch, cannot run it"
        )
    return functools.reduce(operator.and_, trees) if trees else None


def check_mask(mask: MaskLike, size: int, batch: int | None = None) -> None:
    """Raises ValueError where a mask does not fit a window of `size` tokens (in `batch` rows)."""
    if not (isinstance(mask, Mask) or hasattr(mask, "dtype")):
        raise ValueError(f"mask: expected a mask such as CAUSAL, or a bool array, got {shown(mask)}")
    as_mask(mask).check(size, batch)


def by_row(length: Any, keys: Places) -> Any:
    """A length of all rows, or of each, in a shape that broadcasts against the keys' positions."""
    lengths: Any = length if is_traced(length) else np.asarray(length)
    return lengths.reshape(-1, *(1,) * (keys.positions.ndim - 1))


def _check_parts(name: str, parts: tuple[Any, ...], size: int, batch: int | None) -> None:
    if not parts:
        raise ValueError(f"mask: {name} expected at least one mask, got none")
    for part in parts:
        if not isinstance(part, Mask):
            raise ValueError(
                f"mask: {name} expected masks such as CAUSAL or Ancestors(array), got {kind_of(part)}"
            )
        part.check(size, batch)
