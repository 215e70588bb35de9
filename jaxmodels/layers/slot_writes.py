"""Which slots of a cache a window's tokens go to, and writing them there."""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import PartitionSpec
from jaxtyping import Array, Int, Shaped

from jaxmodels.layers.backends import ByBackend
from jaxmodels.layers.mapped import varying_like
from jaxmodels.layers.partition import rows_and_heads
from jaxmodels.layers.sequence_parts import gathered

# The longest window that is scattered slot by slot. On TPU a scatter of many slots is slow to compile.
MOST_SCATTERED = 64
# The most tokens with slots of their own that TPUs write one after the other, see `_write_in_turn`.
MOST_IN_TURN = 8


@dataclass(frozen=True, kw_only=True)
class Ring:
    """Slots that are used again: a row's token number i lies in slot i while ``i < pinned``, then in slot
    ``pinned + (i - pinned) % size``."""

    size: int
    pinned: int = 0

    def slots(self, index: Int[Array, "..."]) -> Int[Array, "..."]:
        """The slots of the tokens of these numbers."""
        return jnp.where(index < self.pinned, index, self.pinned + (index - self.pinned) % self.size)

    def offsets(self, slots: Int[Array, "T"], start: Int[Array, "B"]) -> Int[Array, "B T"]:
        """Which token of a window that begins with token `start` lies in each slot, if any does."""
        start = start[:, None]
        first = jnp.maximum(start - self.pinned, 0)
        reused = (slots - self.pinned - first) % self.size + jnp.maximum(self.pinned - start, 0)
        return jnp.where(slots < self.pinned, slots - start, reused)


def write_slots(
    buffer: Shaped[Array, "B K T H"] | Int[Array, "B T"],
    new: Shaped[Array, "B K S H"] | Int[Array, "B S"],
    tokens: Int[Array, "B"] | Int[Array, "B S"],
    count: Int[Array, "B"] | None = None,
    ring: Ring | None = None,
) -> Array:
    """Writes a window's tokens into their slots. Those without one, at or beyond the last, are dropped.

    Args:
        tokens: the number of each token, [B, S], or [B] that of each row's first, which the others follow.
            Without a `ring`, token number i lies in slot i.
        count: how many leading tokens must be written, None for all. The slots of the others may be left with
            anything in them.
    """
    new = gathered(new.astype(buffer.dtype), axis=buffer.ndim // 2)  # all devices have the whole history
    write = functools.partial(_write, ring=ring)
    lines = rows_and_heads(buffer.shape[: buffer.ndim // 2])
    if not any(lines):
        return write(buffer, new, tokens, count)
    # Each device writes its own rows and heads: of the forms below the compiler would gather some.
    rows = PartitionSpec(lines[0])
    written: Array = jax.shard_map(write, in_specs=(lines, lines, rows, rows), out_specs=lines)(
        buffer, new, tokens, count
    )
    return written


def _write(
    buffer: Array, new: Array, tokens: Array, count: Int[Array, "B"] | None, *, ring: Ring | None
) -> Array:
    """`write_slots` in the form that suits the sizes and the backend."""
    write: Callable[..., Array] = functools.partial(_write_at_once, ring=ring)
    if buffer.ndim == 2:
        return write(buffer, new, tokens, count)
    are_lines, size = _are_lines(buffer, new, tokens, ring), new.shape[2]
    if _is_stored_by_feature(buffer) and (are_lines or 0 < size <= MOST_IN_TURN):
        write = ByBackend(portable=write, tpu=functools.partial(_write_in_turn, ring=ring))
    elif are_lines and size > MOST_SCATTERED and buffer.shape[0] > 1:
        write = ByBackend(portable=write, tpu=_write_rows)
    return write(buffer, new, tokens, count)


def _write_at_once(
    buffer: Array, new: Array, tokens: Array, count: Int[Array, "B"] | None, *, ring: Ring | None
) -> Array:
    """The tokens of a single row, and long windows, are one slice per row. Short windows of several rows are
    one scatter of single slots: of slices that begin at another slot in each row, XLA makes a loop over the
    rows on TPUs."""
    axis = buffer.ndim // 2
    size = new.shape[axis]
    # Several positions are scattered: written as a slice, XLA would hold one more copy of all of them.
    is_single = buffer.shape[0] == 1 and (axis > 1 or size == 1)
    if _are_lines(buffer, new, tokens, ring) and (is_single or size > MOST_SCATTERED):
        return _write_line(buffer, new, tokens)
    slots = _slots_of(tokens, size, buffer.shape[axis], count, ring)
    return _SCATTER(buffer, new, slots) if axis > 1 else _scatter_lines(buffer, new, slots)


def _are_lines(buffer: Array, new: Array, tokens: Array, ring: Ring | None) -> bool:
    """Whether the slots of each row's tokens follow each other, and are no more than there are."""
    axis = buffer.ndim // 2
    return tokens.ndim == 1 and ring is None and new.shape[axis] <= buffer.shape[axis]


def _slots_of(
    tokens: Int[Array, "B"] | Int[Array, "B S"],
    size: int,
    capacity: int,
    count: Int[Array, "B"] | None,
    ring: Ring | None,
) -> Int[Array, "B S"]:
    """Each token's slot. Tokens without one get slots of their own beyond the last, so that no two go to the
    same."""
    if tokens.ndim == 1:
        tokens = tokens[:, None] + jnp.arange(size)
    slots = tokens if ring is None else ring.slots(tokens)
    has_slot = (slots >= 0) & (slots < capacity)
    if count is not None:
        has_slot = has_slot & (jnp.arange(size) < count[:, None])
    return jnp.where(has_slot, slots, capacity + jnp.arange(size))


def _is_stored_by_feature(buffer: Shaped[Array, "B K T H"]) -> bool:
    """Whether TPUs keep the slots of one feature side by side, not the features of one slot, and programs can
    leave them so.

    They do where it takes less memory, padded to tiles of 8 by 128, as with heads of 64 features. Wider than
    a tile are the entries of latent attention, which reads them feature by feature for a single query and
    token by token for many: its programs lay them out anew in any case.
    """

    def padded(rows: int, lanes: int) -> int:
        return -(-rows // 8) * 8 * -(-lanes // 128) * 128

    slots, width = buffer.shape[2:]
    return width < 128 and padded(width, slots) < padded(slots, width)


def _write_in_turn(
    buffer: Shaped[Array, "B K T H"],
    new: Shaped[Array, "B K S H"],
    tokens: Int[Array, "B"] | Int[Array, "B S"],
    count: Int[Array, "B"] | None,
    *,
    ring: Ring | None,
) -> Shaped[Array, "B K T H"]:
    """Line after line in a loop: those of the rows, or single tokens where these do not follow each other.

    For buffers stored by feature. For a scatter, the TPU compiler would move them to another layout and back
    around the loop over steps, in which they take up to four times the memory. It takes the slots' place as
    the last axis here for a sign to leave them as they are.
    """
    size, capacity = new.shape[2], buffer.shape[2]
    if _are_lines(buffer, new, tokens, ring):
        starts = tokens[:, None]
    else:
        starts, size = _slots_of(tokens, size, capacity, count, ring), 1
    lines = starts.shape[1]
    parts = jnp.swapaxes(new, 2, 3)

    def step(index: Array, slots_last: Array) -> Array:
        row, line = index // lines, index % lines
        part = lax.dynamic_slice(parts, (row, 0, 0, line * size), (1, *parts.shape[1:3], size))
        first, shift = _within(starts[row, line], size, capacity)
        held = lax.dynamic_slice(slots_last, (row, 0, 0, first), part.shape)
        return lax.dynamic_update_slice(slots_last, _behind(held, part, shift, axis=3), (row, 0, 0, first))

    slots_last = varying_like(jnp.swapaxes(buffer, 2, 3), new, starts)
    return jnp.swapaxes(lax.fori_loop(0, starts.size, step, slots_last), 2, 3)


def _scatter_lines(
    lines: Shaped[Array, "L T ..."], parts: Shaped[Array, "L S ..."], slots: Int[Array, "L S"]
) -> Shaped[Array, "L T ..."]:
    return jax.vmap(_scatter_line)(lines, parts, slots)


def _scatter_line(
    line: Shaped[Array, "T ..."], part: Shaped[Array, "S ..."], slots: Int[Array, "S"]
) -> Shaped[Array, "T ..."]:
    return line.at[slots].set(part, mode="drop", unique_indices=True)


def _scatter_tokens(
    buffer: Shaped[Array, "B K T H"], new: Shaped[Array, "B K S H"], slots: Int[Array, "B S"]
) -> Shaped[Array, "B K T H"]:
    of_row = jax.vmap(_scatter_line, (0, 0, None))
    return jax.vmap(of_row)(buffer, new, slots)


def _scatter_heads(
    buffer: Shaped[Array, "B K T H"], new: Shaped[Array, "B K S H"], slots: Int[Array, "B S"]
) -> Shaped[Array, "B K T H"]:
    """Every head of every row is a line of slots. Where all heads of a token are written as one, the TPU
    compiler moves the whole cache to another layout and back around the loop over steps."""
    lines, parts = (a.reshape(-1, *a.shape[2:]) for a in (buffer, new))
    return _scatter_lines(lines, parts, jnp.repeat(slots, buffer.shape[1], axis=0)).reshape(buffer.shape)


# With lines of slots, XLA's CPU backend holds another copy of the cache in some programs.
_SCATTER = ByBackend(portable=_scatter_tokens, tpu=_scatter_heads)


def _write_line(buffer: Array, new: Array, start: Int[Array, "B"]) -> Array:
    """`write_slots` of tokens in a line: the slice of slots that they reach, with what was in front of them
    where the line would reach beyond the last slot."""
    axis = buffer.ndim // 2
    size, capacity = new.shape[axis], buffer.shape[axis]

    def write(row: Array, part: Array, start: Int[Array, ""]) -> Array:
        first, shift = _within(start, size, capacity)
        held = lax.dynamic_slice_in_dim(row, first, size, axis - 1)
        return lax.dynamic_update_slice_in_dim(row, _behind(held, part, shift, axis - 1), first, axis - 1)

    if buffer.shape[0] == 1:  # vmap would make a scatter of the slice
        return write(buffer[0], new[0], start[0])[None]
    return jax.vmap(write)(buffer, new, start)


def _write_rows(
    buffer: Shaped[Array, "B K T H"],
    new: Shaped[Array, "B K S H"],
    start: Int[Array, "B"],
    count: Int[Array, "B"] | None,
) -> Shaped[Array, "B K T H"]:
    """`_write_line` row after row in a loop. Of slices that begin at another slot in each row, the TPU
    compiler makes a loop too, but moves the whole cache to another layout and back around it."""
    size, capacity = new.shape[2], buffer.shape[2]

    def step(row: Array, buffer: Array) -> Array:
        part = lax.dynamic_slice_in_dim(new, row, 1)
        first, shift = _within(start[row], size, capacity)
        held = lax.dynamic_slice(buffer, (row, 0, first, 0), part.shape)
        return lax.dynamic_update_slice(buffer, _behind(held, part, shift, axis=2), (row, 0, first, 0))

    return lax.fori_loop(0, buffer.shape[0], step, varying_like(buffer, new, start))


def _within(start: Int[Array, ""], size: int, capacity: int) -> tuple[Int[Array, ""], Int[Array, ""]]:
    """Where a slice of `size` slots from `start` on begins so that it ends with the last slot at the latest,
    and how many slots that is in front of `start`, at most `size`."""
    first = jnp.clip(start, 0, capacity - size)
    return first, jnp.minimum(start - first, size)


def _behind(held: Array, part: Array, shift: Int[Array, ""], axis: int) -> Array:
    """The first `shift` slots that are `held`, and of `part` what has room behind them."""
    size = part.shape[axis]
    if size > 1:
        in_line = jnp.concatenate([held, part], axis)
        part = lax.dynamic_slice_in_dim(in_line, size - shift, size, axis)
    is_new = (jnp.arange(size) >= shift).reshape(-1, *(1,) * (part.ndim - axis - 1))
    return jnp.where(is_new, part, held)
