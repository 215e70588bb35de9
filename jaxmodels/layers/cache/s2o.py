"""S2O (https://arxiv.org/abs/2602.22575): prefill over keys in order of importance, stopped early."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.attend import Running, Scores, absorb, finish_softmax, start_softmax
from jaxmodels.layers.cache.full import FULL_CACHE
from jaxmodels.layers.cache.policy import Heads, Projections, check_at_least_one, grouped, ungrouped
from jaxmodels.layers.kv_cache import EMPTY, KVPending, KVState
from jaxmodels.layers.masks import Causal
from jaxmodels.layers.window import Window


@dataclass(frozen=True, kw_only=True)
class S2O:
    """A full cache whose long windows (prompts) read the keys that matter, most important first.

    The queries of a window are taken in blocks of `query_block`. For each block and key head:

    1. Every key before the block gets an estimate of its weight, ``softmax_j(scale * mean q . k_j)``, the
       mean over the block's queries, for that query head of the key head to which it is largest. This is
       ``1 / query_block`` of the attention's work.
    2. The keys are sorted by it and read in that order, `key_block` at a time, wherever they lie: importance
       gathers in the first blocks.
    3. The first key block whose estimated weights add up to less than `threshold` ends it, for that block of
       queries and head.

    The block's own keys are always read. Windows of fewer than ``2 * query_block`` tokens, windows with
    another mask than the causal one, and entries that are recomputed read everything.

    Only the abstract of the method was available. Permuting keys online by importance, loading them by index
    and stopping where a block's score falls below a threshold are stated there. The estimate, the granularity
    of single keys, sorting per query block and key head, and the meaning of the threshold are inferred.
    `s2o_attend` reports the density; with threshold 0 it is exact, which gives the error.

    Raises:
        ValueError: a block size is below 1, `threshold` is not in [0, 1), or the layer has a sliding window.
    """

    threshold: float = 1e-3
    query_block: int = 256
    key_block: int = 256

    def __post_init__(self) -> None:
        check_at_least_one("S2O", {"query_block": self.query_block, "key_block": self.key_block})
        if not 0 <= self.threshold < 1:
            raise ValueError(f"S2O: threshold={self.threshold} must lie in [0, 1)")

    def check(self, heads: Heads) -> None:
        if heads.reach is not None:
            raise ValueError(
                f"S2O(threshold={self.threshold}) is for layers that see everything, "
                f"got sliding_window={heads.reach}"
            )

    def state_spec(self, heads: Heads, batch: int, capacity: int) -> KVState:
        return FULL_CACHE.state_spec(heads, batch, capacity)

    def write(
        self, heads: Heads, new: Projections, state: KVState, window: Window
    ) -> tuple[Projections, KVPending]:
        return FULL_CACHE.write(heads, new, state, window)

    def read(
        self, heads: Heads, held: Projections, pending: KVPending, window: Window
    ) -> Float[Array, "B S N H"]:
        in_line = isinstance(window.mask, Causal) and window.slots is None
        if window.size < 2 * self.query_block or not in_line:
            return FULL_CACHE.read(heads, held, pending, window)
        state = pending.written
        q = grouped(held.q, heads.num_kv_heads)
        k, v = state.k.astype(q.dtype), state.v.astype(q.dtype)
        asked = jnp.where(window.is_valid, window.positions, EMPTY)
        found = s2o_attend(self, heads.scores, q, k, v, state.positions, asked, held.sink_logits)
        return ungrouped(found.out)

    def commit(
        self,
        heads: Heads,
        pending: KVPending,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> KVState:
        return FULL_CACHE.commit(heads, pending, n, path)

    def limit(self, heads: Heads, state: KVState) -> int | None:
        return FULL_CACHE.limit(heads, state)

    def held(
        self, heads: Heads, state: KVState, length: Int[Array, "B"], slots: Int[Array, "B S"]
    ) -> Int[Array, "B S"]:
        return FULL_CACHE.held(heads, state, length, slots)

    def keys_read(self, heads: Heads, context: int) -> float:
        """Of a single token: everything. How much a prompt reads depends on its contents."""
        return context


@struct.dataclass
class Found:
    """The attention of a window, and how much of the history it took.

    Attributes:
        out: [B, K, M, S, H].
        read: i32[B, K], blocks of keys that were read before the queries' own blocks.
        visible: i32[B, K], those that there are.
    """

    out: jax.Array
    read: jax.Array
    visible: jax.Array


def density(found: Found) -> Float[Array, "B K"]:
    """The share of the blocks before the queries' own that was read."""
    return found.read / jnp.maximum(found.visible, 1)


def s2o_attend(
    policy: S2O,
    scores: Scores,
    q: Float[Array, "B K M S H"],
    k: Float[Array, "B K T H"],
    v: Float[Array, "B K T H"],
    tags: Int[Array, "B T"],
    positions: Int[Array, "B S"],
    sink_logits: Float[Array, "K M"] | None = None,
) -> Found:
    """Causal attention of queries at `positions` (empty ones see nothing) over slots with these tags, sparse
    as `policy` says.

    Rows and heads come one after another, since each stops where it may.
    """
    batch, heads, _, size, _ = q.shape
    block = policy.query_block
    starts = range(0, size, block)
    begun = start_softmax(q, sink_logits)

    def one_head(leaves: Any) -> Any:
        queries, keys, values, tags, positions, begun = leaves
        outs, read, visible = [], jnp.zeros((), jnp.int32), jnp.zeros((), jnp.int32)
        for start in starts:
            at = slice(start, min(start + block, size))
            running = jax.tree.map(lambda leaf, at=at: leaf[:, at], begun)
            out, blocks, all_blocks = _one_block(
                policy, scores, queries[:, at], keys, values, tags, positions[at], running
            )
            outs.append(out)
            read, visible = read + blocks, visible + all_blocks
        return jnp.concatenate(outs, axis=1), read, visible

    def per_head(leaf: Array) -> Array:
        return leaf.reshape(-1, *leaf.shape[2:])

    rows = [jnp.repeat(a, heads, axis=0) for a in (tags, positions)]
    out, read, visible = lax.map(
        one_head, (per_head(q), per_head(k), per_head(v), *rows, jax.tree.map(per_head, begun))
    )
    return Found(out.reshape(q.shape).astype(q.dtype), *(a.reshape(batch, heads) for a in (read, visible)))


def _one_block(
    policy: S2O,
    scores: Scores,
    q: Float[Array, "M S H"],
    k: Float[Array, "T H"],
    v: Float[Array, "T H"],
    tags: Int[Array, "T"],
    positions: Int[Array, "S"],
    running: Running,
) -> tuple[Float[Array, "M S H"], Int[Array, ""], Int[Array, ""]]:
    """A block of one head's queries: output, blocks read of the keys before it, and how many there are."""
    slots, size = k.shape[0], policy.key_block
    asks = positions != EMPTY
    first = jnp.min(jnp.where(asks, positions, jnp.iinfo(jnp.int32).max))
    before = asks.any() & (tags != EMPTY) & (tags < first)
    mean = jnp.where(asks[:, None], q, 0).sum(1) / jnp.maximum(asks.sum(), 1)
    estimate = jnp.einsum("mh,th->mt", mean.astype(q.dtype), k, preferred_element_type=jnp.float32)
    estimate = estimate * scores.scale
    weight = jax.nn.softmax(jnp.where(before, estimate, -jnp.inf), axis=-1).max(0)
    order = jnp.argsort(jnp.where(before, -weight, 1.0))
    # Slots behind the last full block are those of no importance; the padding names the last of them again.
    padded = jnp.pad(order, (0, -slots % size), constant_values=slots - 1)
    count = before.sum()
    mass = jnp.where(jnp.arange(padded.shape[0]) < count, weight[padded], 0.0).reshape(-1, size).sum(-1)

    def attend_to(running: Running, at: Int[Array, "C"], valid: Array) -> Running:
        keys, values, places = k[at], v[at], tags[at]
        seen = valid & (places != EMPTY) & (places <= positions[:, None])
        logits = scores(q[None, None], keys[None, None], seen[None])
        lifted = jax.tree.map(lambda leaf: leaf[None, None], running)
        return jax.tree.map(lambda leaf: leaf[0, 0], absorb(lifted, logits, seen[None], values[None, None]))

    def more(carry: tuple[Array, Running]) -> Array:
        index, _ = carry
        here = mass[jnp.minimum(index, mass.shape[0] - 1)]
        return (index * size < count) & (here >= policy.threshold)

    def step(carry: tuple[Array, Running]) -> tuple[Array, Running]:
        index, running = carry
        at = lax.dynamic_slice_in_dim(padded, index * size, size)
        return index + 1, attend_to(running, at, index * size + jnp.arange(size) < count)

    read, running = lax.while_loop(more, step, (jnp.zeros((), jnp.int32), running))
    # The slots that hold the block's own tokens follow one another.
    own = jnp.argmax(tags >= first)
    at = jnp.minimum(own + jnp.arange(positions.shape[0]), slots - 1)
    running = attend_to(running, at, (own + jnp.arange(positions.shape[0]) < slots) & (tags[at] >= first))
    return finish_softmax(running), read, -(-count // size)
