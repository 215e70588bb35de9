"""A cache whose slots carry their positions: what every layer does that keeps something per token.

A state is a `struct.dataclass` with `positions`, i32[B, T], where -1 marks an empty slot, and buffers
laid out ``[B, K, T, ...]``. A window's candidates are written behind the committed slots; `commit_window`
makes them history by tagging them with their positions. Who sees whom follows from tags, not from slot order.
"""

from dataclasses import fields
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.checks import is_traced
from jaxmodels.layers.attend import Allowed, KeyRange
from jaxmodels.layers.masks import Places, in_layer
from jaxmodels.layers.slot_writes import Ring, write_slots
from jaxmodels.layers.spec import buffer
from jaxmodels.layers.window import Window, accepted

EMPTY = -1


@runtime_checkable
class Limited(Protocol):
    """A mixer whose states may have slots for so many tokens and no more."""

    def limit(self, state: Any) -> int | None:
        """How many tokens a row's history may have, pending ones included; None for any number."""


@runtime_checkable
class Refreshable(Protocol):
    """A mixer that keeps an entry for each token, which can be written anew without touching the others.

    Its `write` takes a window whose `slots` say where each token goes, and `commit` without a count keeps it.
    """

    def held(self, state: Any, length: Int[Array, "B"], slots: Int[Array, "B S"]) -> Int[Array, "B S"]:
        """The positions of the tokens of these numbers, of `length` in each row; EMPTY where the state does
        not hold the token, or not all that it sees.

        Raises:
            ValueError: entries cannot be written anew one by one; the message says why.
        """


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

    Attributes:
        written: the state.
        start: i32[B], the number of the window's first token, and its slot but for a `ring`.
        positions: i32[B, S], the window's logical positions.
        valid: i32[B], how many leading tokens were written; the rest is padding.
        ring: how slots are used again, if they are.
    """

    written: Any
    start: jax.Array
    positions: jax.Array
    valid: jax.Array
    ring: Ring | None = struct.field(pytree_node=False, default=None)


def empty_slots(batch: int, capacity: int) -> Any:
    """The tags of a cache that holds nothing, i32[B, T], as part of a `state_spec`."""
    return buffer((batch, capacity), ("batch", "slots"), "int32", EMPTY)


def write_window(
    state: Any, window: Window, ring: Ring | None = None, **entries: Float[Array, "B S K H"]
) -> KVPending:
    """The state with the window's `entries`, by the names of its buffers, behind the committed slots.

    Padding is not written, and neither are tokens beyond the last slot.

    Raises ValueError where the window has more tokens than the cache (or its ring) has slots.
    """
    slots = state.positions.shape[1] if ring is None else ring.size
    if window.slots is None and window.size > slots:
        raise ValueError(f"write: a window of {window.size} tokens does not fit a cache of {slots} slots")
    tokens = window.start if window.slots is None else window.slots
    written = {
        name: write_slots(getattr(state, name), jnp.swapaxes(new, 1, 2), tokens, window.valid, ring)
        for name, new in entries.items()
    }
    tags = write_slots(state.positions, window_tags(window), tokens, window.valid, ring)
    written = state.replace(positions=tags, **written)
    return KVPending(written, window.start, window.positions, window.valid, ring)


def commit_window(
    pending: KVPending, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
) -> Any:
    """The state once the first `n` window tokens (of `path`, if given) are history; see `Mixer.commit`."""
    if n is None and path is None:
        return pending.written
    state, start, ring = pending.written, pending.start, pending.ring
    if path is not None:
        tokens = start[:, None] + path
        slots = tokens if ring is None else ring.slots(tokens)
        moved = {
            field.name: write_slots(buffer, take_slots(buffer, slots), start, n, ring)
            for field in fields(state)
            if field.name != "positions" and (buffer := getattr(state, field.name)) is not None
        }
        state = state.replace(**moved)
    tags, _ = accepted_tags(pending.positions, pending.valid, n, path)
    return state.replace(positions=write_slots(state.positions, tags, start, pending.valid, ring))


def accepted_tags(
    positions: Int[Array, "B S"],
    valid: Int[Array, "B"],
    n: Int[Array, "B"] | None,
    path: Int[Array, "B P"] | None,
) -> tuple[Int[Array, "B S"], Int[Array, "B"]]:
    """The tags of the window's slots once `n` tokens (of `path`, if given) are history, and that number,
    which is at most `valid`."""
    size = positions.shape[1]
    positions, n = accepted(positions, n, path)
    n = jnp.clip(n, 0, valid)
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
    mask = in_layer(window.mask, reach, chunk)
    queries, keys = Places(positions=window.positions), Places(positions=tags)
    if not mask.by_position:
        queries, keys = window.places, _slot_places(window, tags, start, ring)

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
    mask = in_layer(window.mask, reach, chunk)
    keys = Places(positions=tags) if mask.by_position else _slot_places(window, tags, start, ring)
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
    inside = (place >= 0) & (place < window.valid[:, None])
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


def take_tags(tags: Int[Array, "B T"], slots: Int[Array, "B S"]) -> Int[Array, "B S"]:
    """The tags of these slots, EMPTY where one does not exist."""
    exists = (slots >= 0) & (slots < tags.shape[1])
    return jnp.where(exists, jnp.take_along_axis(tags, slots, axis=1, mode="clip"), EMPTY)


def read_slots(buffer: Float[Array, "B K T H"], start: Int[Array, "B"], size: int) -> Float[Array, "B K S H"]:
    """The slots of each row from `start` to ``start + size``."""
    return jax.vmap(lambda row, at: lax.dynamic_slice_in_dim(row, at, size, 1))(buffer, start)


def take_slots(buffer: Float[Array, "B K T H"], slots: Int[Array, "B P"]) -> Float[Array, "B K P H"]:
    """What lies in these slots of each row; any slot where one does not exist."""
    return jnp.take_along_axis(buffer, slots[:, None, :, None], axis=2, mode="clip")
