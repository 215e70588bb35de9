"""A cache whose slots carry their positions: what every layer does that keeps something per token.

A state is a `flax.struct` dataclass with `positions`, i32[B, T], where -1 marks an empty slot, and buffers
laid out ``[B, K, T, ...]``. A window's candidates are written behind the committed slots; `commit_window`
makes them history by tagging them with their positions. Who sees whom follows from tags, not from slot order.
"""

from dataclasses import dataclass, fields
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced
from jaxmodels.layers.attend import Allowed, KeyRange
from jaxmodels.layers.masks import Places, in_layer
from jaxmodels.layers.window import Window, accepted

EMPTY = -1


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


@struct.dataclass
class KVState:
    """Keys and values by slot.

    Attributes:
        k, v: [B, K, T, H].
        positions: i32[B, T]; -1 marks an empty slot.
    """

    k: jax.Array
    v: jax.Array
    positions: jax.Array


@struct.dataclass
class KVPending:
    """The cache with the window's candidates written behind the committed slots.

    written: the state. start: i32[B], the number of the window's first token, and its slot but for a `ring`.
    positions: i32[B, S], the window's logical positions. ring: how slots are used again, if they are.
    """

    written: Any
    start: jax.Array
    positions: jax.Array
    ring: Ring | None = struct.field(pytree_node=False, default=None)


def empty_slots(batch: int, capacity: int) -> Int[Array, "B T"]:
    """The tags of a cache that holds nothing."""
    return jnp.full((batch, capacity), EMPTY, jnp.int32)


def write_window(
    state: Any, window: Window, ring: Ring | None = None, **entries: Float[Array, "B S K H"]
) -> KVPending:
    """The state with the window's `entries`, by the names of its buffers, behind the committed slots.

    Raises ValueError where the window has more tokens than the cache (or its ring) has slots.
    """
    slots = state.positions.shape[1] if ring is None else ring.size
    if window.size > slots:
        raise ValueError(f"write: a window of {window.size} tokens does not fit a cache of {slots} slots")
    written = {
        name: write_slots(getattr(state, name), jnp.swapaxes(new, 1, 2), window.start, ring)
        for name, new in entries.items()
    }
    tags = write_slots(state.positions, window_tags(window), window.start, ring)
    return KVPending(state.replace(positions=tags, **written), window.start, window.positions, ring)


def commit_window(
    pending: KVPending, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
) -> Any:
    """The state once the first `n` window tokens (of `path`, if given) are history; see `Mixer.commit`."""
    if n is None and path is None:
        return pending.written
    state, start, positions, ring = pending.written, pending.start, pending.positions, pending.ring
    size = positions.shape[1]
    if path is not None:
        buffers = {field.name: getattr(state, field.name) for field in fields(state)}
        del buffers["positions"]
        moved = {
            name: write_slots(buffer, _take_slots(read_slots(buffer, start, size, ring), path), start, ring)
            for name, buffer in buffers.items()
        }
        state = state.replace(**moved)
    tags, _ = accepted_tags(positions, n, path)
    return state.replace(positions=write_slots(state.positions, tags, start, ring))


def accepted_tags(
    positions: Int[Array, "B S"], n: Int[Array, "B"] | None, path: Int[Array, "B P"] | None
) -> tuple[Int[Array, "B S"], Int[Array, "B"]]:
    """The tags of the window's slots once `n` tokens (of `path`, if given) are history, and that number."""
    size = positions.shape[1]
    positions, n = accepted(positions, n, path)
    positions = jnp.pad(positions, ((0, 0), (0, size - positions.shape[1])))
    return jnp.where(jnp.arange(size) < n[:, None], positions, EMPTY), n


def window_tags(window: Window) -> Int[Array, "B S"]:
    """The positions of the window's real tokens; padding is tagged empty."""
    return jnp.where(window.is_valid, window.positions, EMPTY)


def allowed_by_position(
    window: Window,
    tags: Int[Array, "B T"],
    start: Int[Array, "B"],
    reach: int | None,
    ring: Ring | None = None,
    chunk: int | None = None,
) -> Allowed:
    """Which slots each window token sees under the window's mask, decided by the slots' positions.

    `reach` is how many positions a token sees on a side, its own included; None sees all. With `chunk`, it
    sees only its own chunk of so many positions. The window's own tokens lie in the slots from `start` on
    (around the `ring`), or where its `slots` say.
    """
    mask, queries = in_layer(window.mask, reach, chunk), window.places
    keys = _slot_places(window, tags, start, ring)

    def allowed(q0: int | Array, q_size: int, k0: int | Array, k_size: int) -> Bool[Array, "B S T"]:
        rows = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, q0, q_size, axis=1)[:, :, None], queries)
        columns = jax.tree.map(lambda a: lax.dynamic_slice_in_dim(a, k0, k_size, axis=1)[:, None, :], keys)
        seen = (columns.positions != EMPTY) & mask.sees(rows, columns)
        return jnp.broadcast_to(seen, (tags.shape[0], q_size, k_size))

    return allowed


def range_of_sequence(window: Window, reach: int | None, chunk: int | None = None) -> KeyRange:
    """The keys of a whole sequence that a block of its queries can see, as Python integers.

    The sequence's positions are those from 0 on. All keys where a mask cannot say it without values that the
    program is given, so that the work can be differentiated.
    """
    mask, size = in_layer(window.mask, reach, chunk), window.size
    line = np.arange(size)[None, :]
    keys = Places(positions=line, index=line, is_history=np.zeros(line.shape, bool))

    def key_range(q0: int | Array, q_size: int) -> tuple[int, int]:
        near = mask.within_reach(q0, q0 + q_size, keys)
        if is_traced(near):
            return 0, size
        (seen,) = np.nonzero(np.broadcast_to(near, (*np.shape(near)[:-1], size)).reshape(-1, size).any(0))
        return (int(seen[0]), int(seen[-1]) + 1) if seen.size else (0, 0)

    return key_range


def range_in_use(
    window: Window,
    tags: Int[Array, "B T"],
    start: Int[Array, "B"],
    reach: int | None,
    ring: Ring | None = None,
    chunk: int | None = None,
) -> KeyRange:
    """The smallest range of slots that holds every position a block of queries can see.

    The arguments are those of `allowed_by_position`.
    """
    mask, keys = in_layer(window.mask, reach, chunk), _slot_places(window, tags, start, ring)
    slots = jnp.arange(tags.shape[1], dtype=jnp.int32)

    def key_range(q0: int | Array, q_size: int) -> tuple[Array, Array]:
        queries = lax.dynamic_slice_in_dim(window.positions, q0, q_size, axis=1)
        low, high = queries.min(1, keepdims=True), queries.max(1, keepdims=True) + 1
        needed = ((tags != EMPTY) & mask.within_reach(low, high, keys)).any(0)
        low = jnp.min(jnp.where(needed, slots, tags.shape[1]))
        return low, jnp.max(jnp.where(needed, slots + 1, 0))

    return key_range


def _slot_places(
    window: Window, tags: Int[Array, "B T"], start: Int[Array, "B"], ring: Ring | None
) -> Places:
    """Where what lies in each slot stands, [B, T] each."""
    slots = jnp.arange(tags.shape[1], dtype=jnp.int32)
    if window.slots is not None:
        place = _place_by_slot(window, tags.shape[1], ring)
    else:
        place = slots - start[:, None] if ring is None else ring.offsets(slots, start)
    inside = (place >= 0) & (place < window.size)
    if window.index is not None:
        place = jnp.take_along_axis(window.index, jnp.clip(place, 0, window.size - 1), axis=1)
    return Places(positions=tags, index=place, is_history=~inside)


def _place_by_slot(window: Window, capacity: int, ring: Ring | None) -> Int[Array, "B T"]:
    """Which real token of a window with slots of its own lies in each slot; -1 for none."""
    assert window.slots is not None
    slots = window.slots if ring is None else ring.slots(window.slots)
    slots = jnp.where(window.is_valid, slots, capacity)
    places = jnp.arange(window.size, dtype=jnp.int32)

    def of_row(slots: Int[Array, "S"]) -> Int[Array, "T"]:
        return jnp.full((capacity,), -1, jnp.int32).at[slots].set(places, mode="drop")

    return jax.vmap(of_row)(slots)


def write_slots(buffer: Array, new: Array, start: Int[Array, "B"], ring: Ring | None = None) -> Array:
    """Writes each row's window from its start slot on; slots are axis 2 of [B, K, T, H], axis 1 of [B, T]."""
    axis = buffer.ndim // 2 - 1
    new = new.astype(buffer.dtype)
    size = new.shape[axis + 1]
    if ring is not None and size > 1:
        slots = ring.slots(start[:, None] + jnp.arange(size))
        return jax.vmap(lambda row, part, at: _scatter(row, part, at, axis))(buffer, new, slots)
    if ring is not None:
        start = ring.slots(start)
    if buffer.shape[0] == 1:
        return lax.dynamic_update_slice_in_dim(buffer, new, start[0], axis + 1)
    return jax.vmap(lambda row, part, at: lax.dynamic_update_slice_in_dim(row, part, at, axis))(
        buffer, new, start
    )


def _scatter(row: Array, part: Array, slots: Int[Array, "S"], axis: int) -> Array:
    return row.at[:, slots].set(part) if axis else row.at[slots].set(part)


def read_slots(
    buffer: Float[Array, "B K T H"], start: Int[Array, "B"], size: int, ring: Ring | None = None
) -> Float[Array, "B K S H"]:
    """The slots of each row's window of `size` tokens."""
    if ring is not None:
        return _take_slots(buffer, ring.slots(start[:, None] + jnp.arange(size)))
    return jax.vmap(lambda row, at: lax.dynamic_slice_in_dim(row, at, size, 1))(buffer, start)


def _take_slots(window: Float[Array, "B K S H"], path: Int[Array, "B P"]) -> Float[Array, "B K P H"]:
    return jnp.take_along_axis(window, path[:, None, :, None], axis=2)
