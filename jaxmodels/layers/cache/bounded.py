"""Caches of a fixed number of slots that evict when they are full; every key head keeps tokens of its own.

The slots in use come first, in order of time. Since heads keep different tokens, tags are per head. Whether
to evict follows from what is committed, but it is done when the next window is written: after a window has
been read, XLA could not change the buffers without copying them.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers import attend as attend_module
from jaxmodels.layers.cache.policy import Heads, Projections, grouped, ungrouped
from jaxmodels.layers.kv_cache import EMPTY, accepted_tags, allowed_by_position, take_slots, window_tags
from jaxmodels.layers.slot_writes import write_slots
from jaxmodels.layers.spec import buffer
from jaxmodels.layers.window import Window

State = TypeVar("State")


@struct.dataclass
class Slots:
    """The keys and values that are held, those in use first.

    Attributes:
        k, v: [B, K, T, H].
        positions: i32[B, K, T], of each key; -1 is an empty slot.
        used: i32[B], how many slots are in use.
    """

    k: jax.Array
    v: jax.Array
    positions: jax.Array
    used: jax.Array


@struct.dataclass
class PendingSlots:
    """The slots with a window written behind those in use.

    Attributes:
        written: the slots.
        positions: i32[B, S], the window's.
        valid: i32[B], how many of the window's tokens are real.
    """

    written: Slots
    positions: jax.Array
    valid: jax.Array


def slots_per_head(heads: Heads, batch: int, slots: int) -> Slots:
    """Slots of an empty history, as part of a `state_spec`."""
    shape, axes = (batch, heads.num_kv_heads, slots), ("batch", "kv_heads", "slots")
    entries = buffer((*shape, heads.head_dim), (*axes, "head_dim"))
    return Slots(
        k=entries,
        v=entries,
        positions=buffer(shape, axes, "int32", EMPTY),
        used=buffer((batch,), ("batch",), "int32"),
    )


def write_behind(
    policy: str, longest_peek: int, state: Slots, new: Projections, window: Window
) -> PendingSlots:
    """A window behind the slots in use, tentatively.

    Raises ValueError where it is longer than `longest_peek`, for which `policy` keeps room.
    """
    if window.size > longest_peek:
        raise ValueError(
            f"write: a window of {window.size} tokens is longer than {policy}'s longest_peek={longest_peek}"
        )
    k, v = (
        write_slots(old, jnp.swapaxes(part, 1, 2), state.used, window.valid)
        for old, part in ((state.k, new.k), (state.v, new.v))
    )
    positions = _write_tags(state.positions, window_tags(window), state.used, window.valid)
    written = Slots(k=k, v=v, positions=positions, used=state.used)
    return PendingSlots(written, window.positions, window.valid)


def settle(
    pending: PendingSlots, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
) -> Slots:
    """The slots once the first n tokens (of `path`) are in use; see `Mixer.commit`. Evicts nothing."""
    state, positions = pending.written, pending.positions
    if n is None and path is None:
        return replace(state, used=state.used + pending.valid)
    if path is not None:
        slots = state.used[:, None] + path
        k, v = (write_slots(a, take_slots(a, slots), state.used, n) for a in (state.k, state.v))
        state = replace(state, k=k, v=v)
    tags, n = accepted_tags(positions, pending.valid, n, path)
    tags = _write_tags(state.positions, tags, state.used, pending.valid)
    return replace(state, positions=tags, used=state.used + n)


def weigh(
    heads: Heads,
    q: Float[Array, "B S N H"],
    sink_logits: Float[Array, "K M"] | None,
    state: Slots,
    window: Window,
) -> tuple[Float[Array, "B S N H"], Float[Array, "B K T"]]:
    """Attention over the slots, and the weight each slot was given by the window's valid queries together."""
    queries = grouped(q, heads.num_kv_heads)
    block = max(attend_module.QUERY_BLOCK, -(-window.size // attend_module.MAX_QUERY_BLOCKS))
    outputs, given = [], jnp.zeros(state.positions.shape, jnp.float32)
    for start in range(0, window.size, block):
        part = queries[:, :, :, start : start + block]
        size = part.shape[3]
        seen = _seen(heads, state, window, start, size)
        weights = _softmax(_logits(heads, part, state, seen, window.size), seen, sink_logits)
        outputs.append(_weighted_values(weights.astype(q.dtype), state, window.size))
        counted = window.is_valid[:, None, None, start : start + size, None]
        given = given + jnp.where(counted, weights, 0.0).sum((2, 3))
    return ungrouped(jnp.concatenate(outputs, axis=3)), given


def kept_first(priority: Float[Array, "B K T"], keep: int) -> Int[Array, "B K T"]:
    """An order of slots: the `keep` of highest priority, then the others, both as they were."""
    slots = jnp.arange(priority.shape[-1])
    return jnp.argsort(jnp.where(are_best(priority, keep), 0, slots.shape[0]) + slots, axis=-1)


def are_best(priority: Float[Array, "B K T"], count: int) -> Bool[Array, "B K T"]:
    """Which slots are the `count` of highest priority; of equals the first."""
    _, best = lax.top_k(priority, count)

    def mark(index: Int[Array, "C"]) -> Bool[Array, "T"]:
        return jnp.zeros(priority.shape[-1:], bool).at[index].set(True)

    return jax.vmap(jax.vmap(mark))(best)


def reorder(
    state: Slots, order: Int[Array, "B K T"], keep: int, due: Bool[Array, "B"]
) -> tuple[Slots, Int[Array, "B K T"]]:
    """The slots of the rows that are `due` in this order, of which the first `keep` stay in use.

    Also the order that was applied: other rows stay as they are. Behind the slots in use lie, untagged, the
    keys and values that were evicted.
    """
    slots = jnp.arange(order.shape[-1])
    order = jnp.where(due[:, None, None], order, slots)
    k, v = (jnp.take_along_axis(a, order[..., None], axis=2) for a in (state.k, state.v))
    positions = jnp.take_along_axis(state.positions, order, axis=2)
    positions = jnp.where(due[:, None, None] & (slots >= keep), EMPTY, positions)
    return Slots(k=k, v=v, positions=positions, used=jnp.where(due, keep, state.used)), order


def when_full(
    state: State, used: Int[Array, "B"], limit: int, compress: Callable[[State, Bool[Array, "B"]], State]
) -> State:
    """``compress(state, due)`` if any row has more than `limit` slots in use. A loop of no or one turn,
    since the state of a `lax.cond` would be copied."""
    due = used > limit
    return lax.fori_loop(0, due.any().astype(jnp.int32), lambda _, s: compress(s, due), state)


def _seen(heads: Heads, state: Slots, window: Window, start: int, size: int) -> Bool[Array, "B K S T"]:
    """Which slots of each head the window's queries [start, start + size) see."""

    def of_head(tags: Int[Array, "B T"]) -> Bool[Array, "B S T"]:
        allowed = allowed_by_position(window, tags, state.used, heads.reach, chunk=heads.chunk)
        return allowed(start, size, 0, tags.shape[1])

    return jax.vmap(of_head, 1, 1)(state.positions)


def _logits(
    heads: Heads, q: Float[Array, "B K M S H"], state: Slots, seen: Bool[Array, "B K S T"], new: int
) -> Float[Array, "B K M S T"]:
    """The queries' logits with all slots in use; others keep 0."""

    def fold(leaf: Array) -> Array:
        return leaf.reshape(-1, 1, *leaf.shape[2:])

    def body(first: Array, begin: Array, logits: Array) -> Array:
        keys = lax.dynamic_slice_in_dim(state.k, first, _block(state), axis=2).astype(q.dtype)
        visible = lax.dynamic_slice_in_dim(seen, first, _block(state), axis=3)
        part = heads.scores(fold(q), fold(keys), visible.reshape(-1, *visible.shape[2:]))
        return lax.dynamic_update_slice_in_dim(logits, part.reshape(*q.shape[:4], -1), first, axis=4)

    return _over_slots(state, new, body, jnp.zeros((*q.shape[:4], state.k.shape[2]), jnp.float32))


def _softmax(
    logits: Float[Array, "B K M S T"], seen: Bool[Array, "B K S T"], sink_logits: Float[Array, "K M"] | None
) -> Float[Array, "B K M S T"]:
    """Over all slots that are seen; zeros where nothing is."""
    visible = seen[:, :, None]
    highest = jnp.where(visible, logits, -jnp.inf).max(-1, keepdims=True)
    if sink_logits is not None:
        extra = sink_logits.astype(jnp.float32)[None, :, :, None, None]
        highest = jnp.maximum(highest, extra)
    weights = jnp.where(visible, jnp.exp(logits - highest), 0.0)
    total = weights.sum(-1, keepdims=True)
    if sink_logits is not None:
        total = total + jnp.exp(extra - highest)
    return weights / jnp.where(total > 0, total, 1.0)


def _weighted_values(weights: Float[Array, "B K M S T"], state: Slots, new: int) -> Float[Array, "B K M S H"]:
    def body(first: Array, begin: Array, total: Array) -> Array:
        values = lax.dynamic_slice_in_dim(state.v, first, _block(state), axis=2).astype(weights.dtype)
        part = lax.dynamic_slice_in_dim(weights, first, _block(state), axis=4)
        part = jnp.where(first + jnp.arange(_block(state)) >= begin, part, 0)
        product = jnp.einsum("bkmst,bkth->bkmsh", part, values, preferred_element_type=jnp.float32)
        return total + product

    shape = (*weights.shape[:4], state.v.shape[3])
    return _over_slots(state, new, body, jnp.zeros(shape, jnp.float32)).astype(weights.dtype)


def _block(state: Slots) -> int:
    return min(attend_module.KEY_BLOCK, state.k.shape[2])


def _over_slots(
    state: Slots, new: int, body: Callable[[Array, Array, Array], Array], begun: Array
) -> Float[Array, "..."]:
    """``body(first, begin, carry)`` for each block of slots that the history and `new` tokens reach.

    The block's slots from `begin` on were not in an earlier block. Products read blocks, because one with the
    whole buffer makes XLA copy it at every step.
    """
    slots, block = state.k.shape[2], _block(state)
    count = -(-jnp.minimum(state.used.max() + new, slots) // block)

    def step(i: Array, carry: Array) -> Array:
        return body(jnp.minimum(i * block, slots - block), i * block, carry)

    return lax.fori_loop(0, count, step, begun)


def _write_tags(
    tags: Int[Array, "B K T"], new: Int[Array, "B S"], start: Int[Array, "B"], count: Int[Array, "B"]
) -> Int[Array, "B K T"]:
    per_head = jnp.broadcast_to(new[:, None, :, None], (*tags.shape[:2], new.shape[1], 1))
    return write_slots(tags[..., None], per_head, start, count)[..., 0]
