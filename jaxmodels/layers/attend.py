"""Scaled dot-product attention in one pass over blocks of keys, the softmax's division delayed to the end.

Memory per query block is O(query block x key block), never O(S x S): the running maximum, denominator and
weighted sum are rescaled as blocks arrive (Rabe and Staats 2021; "Implementing SDPA on Streaming Dataflow").
Queries are laid out ``[B, K, M, S, H]`` with ``M = N / K`` query heads per key/value head, keys and values
``[B, K, T, H]``: heads before slots, so that one head's slots are contiguous. Values may have another
width, I, than keys, and both may be stored in another form than they are used in (`Unpack`).
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

from jaxmodels.layers.backends import ByBackend
from jaxmodels.layers.mapped import varying_like
from jaxmodels.layers.sequence_parts import number_of_part, on_each_part, parts_of
from jaxmodels.pytrees import register_dataclass

# Of CPUs. A single query per head is bound by reading keys: small blocks stay in the inner caches. The block
# must be smaller than the cache: one block that spans it makes XLA copy the whole cache at every step.
QUERY_BLOCK, KEY_BLOCK, KEY_BLOCK_ONE_QUERY = 256, 256, 128
# Of accelerators, where every step of a loop costs as much as many blocks of a CPU's size.
WIDE_QUERY_BLOCK, WIDE_KEY_BLOCK = 512, 1024
# A single query's block there: about so many bytes of keys and values, but no more slots than this.
WIDE_BYTES_ONE_QUERY, MOST_KEYS_ONE_QUERY = 2**25, 8192
MAX_QUERY_BLOCKS = 16

# allowed(query_start, query_size, key_start, key_size) -> bool[B, query_size, key_size]
Allowed: TypeAlias = Callable[[int | Array, int, int | Array, int], Bool[Array, "B S T"]]
# bias(query_start, query_size, key_start, key_size) -> what is added to the logits of these pairs, broadcast
Bias: TypeAlias = Callable[[int | Array, int, int | Array, int], Float[Array, "#B #K #M S T"]]
# The half-open range of key slots that queries [start, start + size) may attend to. Where it gives Python
# integers it does so for all queries, and `start` is one.
KeyRange: TypeAlias = Callable[[int | Array, int], tuple[int | Array, int | Array]]

# Makes keys [B, K, T, H] and values [B, K, T, I] of a block of what is stored, [B, C, T, *] each.
Unpack: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]

_FEW_HEADS = 4

_MASKED = -1e30  # finite, so that a row that sees nothing gives zeros instead of NaN


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """How many `queries` and how many `keys` are computed with at a time."""

    queries: int
    keys: int


@dataclass(frozen=True, kw_only=True)
class Scores:
    """How a logit is made: ``q.k * scale``, then ``softcap * tanh(logit / softcap)`` if `softcap` is set."""

    scale: float
    softcap: float | None = None

    def __call__(
        self, q: Float[Array, "B K M S H"], k: Float[Array, "B K T H"], seen: Bool[Array, "B S T"]
    ) -> Float[Array, "B K M S T"]:
        logits = _products(q, k, "bkmsh,bkth->bkmst", "bkh,bkth->bkt") * self.scale
        if self.softcap is not None:
            logits = self.softcap * jnp.tanh(logits / self.softcap)
        return jnp.where(seen[:, None, None], logits, _MASKED)


def attend(
    q: Float[Array, "B K M S H"],
    k: Float[Array, "B C T X"],
    v: Float[Array, "B C T Y"],
    *,
    allowed: Allowed,
    key_range: KeyRange,
    scores: Scores,
    bias: Bias | None = None,
    sink_logits: Float[Array, "K M"] | None = None,
    running: "Running | None" = None,
    unpack: Unpack = lambda k, v: (k, v),
    query_block: int | None = None,
) -> Float[Array, "B K M S I"]:
    """Attention output of every query, in q's dtype.

    `allowed` masks pairs; `key_range` bounds the blocks that are visited at all, so that work follows the
    slots in use and not the capacity. Where it returns Python integers the loop has a static length and the
    result can be differentiated in reverse. `bias` is added to what `scores` gives. `sink_logits` adds one
    logit per head to the softmax's denominator. `running` is the softmax over other keys of the same queries
    (`sink_logits` included), which these continue. `unpack` is applied to each block of `k` and `v` that is
    visited, once per block of queries; they may be one buffer. `query_block` is how many queries are worth
    unpacking a block for, by default the backend's choice. A query that may attend to nothing gets zeros.

    Devices that share a window (`jaxmodels.layers.sequence_parts`) each attend with their own queries.
    """
    if parts_of(q.shape[3]) > 1:

        def with_own_queries(
            q: Array, running: Running | None, k: Array, v: Array, sink_logits: Array | None
        ) -> Array:
            first = number_of_part() * q.shape[3]
            return attend(
                q,
                k,
                v,
                allowed=lambda start, *rest: allowed(first + start, *rest),
                key_range=lambda start, size: key_range(first + start, size),
                scores=scores,
                bias=None if bias is None else lambda start, *rest: bias(first + start, *rest),
                sink_logits=sink_logits,
                running=running,
                unpack=unpack,
                query_block=query_block,
            )

        shared: Array = on_each_part(with_own_queries, (3, 3, None, None, None), 3)(
            q, running, k, v, sink_logits
        )
        return shared

    search = _Search(
        q=q,
        k=k,
        v=v,
        allowed=allowed,
        key_range=key_range,
        scores=scores,
        bias=bias,
        sink_logits=sink_logits,
        running=running,
        unpack=unpack,
    )
    narrow, wide = (
        Blocks(
            queries=max(query_block or blocks.queries, -(-q.shape[3] // MAX_QUERY_BLOCKS)),
            keys=min(blocks.keys, k.shape[2]),
        )
        for blocks in (narrow_blocks(q), wide_blocks(q, k, v))
    )
    if q.shape[3] <= narrow.queries and wide.keys == narrow.keys:
        return search.in_turn(narrow)
    by_backend = ByBackend(
        portable=functools.partial(search.in_a_loop, wide), cpu=functools.partial(search.in_turn, narrow)
    )
    out: Array = by_backend()
    return out


def narrow_blocks(q: Float[Array, "B K M S H"]) -> Blocks:
    """What suits the caches of a CPU."""
    return Blocks(queries=QUERY_BLOCK, keys=KEY_BLOCK if q.shape[3] > 1 else KEY_BLOCK_ONE_QUERY)


def wide_blocks(
    q: Float[Array, "B K M S H"], k: Float[Array, "B C T X"], v: Float[Array, "B C T Y"]
) -> Blocks:
    """What makes the steps of a loop worth their while on an accelerator.

    By the TPU compiler's estimate (v6e, bfloat16) a step costs as much as reading 20 MiB. A short cache,
    or one of few rows and heads, is therefore read in one step, others by blocks up to the slots in use.
    """
    if q.shape[3] > 1:
        return Blocks(queries=WIDE_QUERY_BLOCK, keys=WIDE_KEY_BLOCK)
    bytes_per_slot = sum(a.size * a.dtype.itemsize for a in (k, v)) // k.shape[2]
    fitting = WIDE_BYTES_ONE_QUERY // max(bytes_per_slot, 1)
    keys = 2 ** math.floor(math.log2(max(fitting, 1)))
    return Blocks(queries=1, keys=min(max(keys, WIDE_KEY_BLOCK), MOST_KEYS_ONE_QUERY))


@dataclass(frozen=True)
class Running:
    """The streaming softmax's carry: maximum, denominator, weighted sum of values; [B, K, M, S (, H)]."""

    maximum: jax.Array
    denominator: jax.Array
    weighted: jax.Array


register_dataclass(Running, ["maximum", "denominator", "weighted"], [])


@dataclass(frozen=True, kw_only=True)
class _Search:
    """The arguments of `attend`, by their names there, and the orders in which its blocks can be visited."""

    q: Float[Array, "B K M S H"]
    k: Float[Array, "B C T X"]
    v: Float[Array, "B C T Y"]
    allowed: Allowed
    key_range: KeyRange
    scores: Scores
    bias: Bias | None
    sink_logits: Float[Array, "K M"] | None
    running: Running | None
    unpack: Unpack

    @property
    def value_dim(self) -> int:
        return int(jax.eval_shape(self.unpack, self.k, self.v)[1].shape[-1])

    def in_turn(self, blocks: Blocks) -> Float[Array, "B K M S I"]:
        """One block of queries after the other, each with a program of its own."""
        size = self.q.shape[3]
        starts = range(0, size, blocks.queries)
        found = [self.found(start, min(blocks.queries, size - start), blocks.keys) for start in starts]
        return found[0] if len(found) == 1 else jnp.concatenate(found, axis=3)

    def in_a_loop(self, blocks: Blocks) -> Float[Array, "B K M S I"]:
        """The same in a loop, which writes what each block of queries finds where it belongs: a TPU would
        make one pass over the whole for each part of a concatenation. Not where it may be differentiated."""
        size = self.q.shape[3]
        if size <= blocks.queries or isinstance(self.key_range(0, blocks.queries)[0], int):
            return self.in_turn(blocks)

        def step(index: Array, out: Array) -> Array:
            start = jnp.minimum(index * blocks.queries, size - blocks.queries)
            found = self.found(start, blocks.queries, blocks.keys)
            return lax.dynamic_update_slice_in_dim(out, found, start, axis=3)

        out = lax.empty((*self.q.shape[:-1], self.value_dim), self.q.dtype)
        out = varying_like(out, self.q, self.k, self.v)
        return lax.fori_loop(0, -(-size // blocks.queries), step, out)

    def found(self, start: int | Array, size: int, block: int) -> Float[Array, "B K M s I"]:
        """What `size` queries from `start` on find, by blocks of `block` keys."""
        slots = self.k.shape[2]
        q, running = self._part(self.q, start, size), self._begun(start, size)
        low, high = self.key_range(start, size)

        def step(index: int | Array, running: Running) -> Running:
            # The last block of an odd number of slots is shifted back; slots seen before are masked out.
            begin = index * block
            first = jnp.minimum(begin, slots - block) if slots % block else begin
            seen = self.allowed(start, size, first, block)
            if slots % block:
                seen = seen & (first + jnp.arange(block) >= begin)
            parts = (lax.dynamic_slice_in_dim(a, first, block, axis=2) for a in (self.k, self.v))
            keys, values = self.unpack(*parts)
            logits = self.scores(q, keys, seen)
            if self.bias is not None:
                logits = logits + self.bias(start, size, first, block)
            return absorb(running, logits, seen, values)

        if slots <= block:
            running = step(0, running)
        else:
            if isinstance(low, int) and isinstance(high, int):
                step = jax.checkpoint(step)  # reverse mode would otherwise keep every block's weights: S x T
            running = varying_like(running, q, self.k, self.v)
            running = lax.fori_loop(low // block, -(-high // block), step, running)
        return finish_softmax(running).astype(q.dtype)

    def _begun(self, start: int | Array, size: int) -> Running:
        if self.running is None:
            return start_softmax(self._part(self.q, start, size), self.sink_logits, self.value_dim)
        return jax.tree.map(lambda leaf: self._part(leaf, start, size), self.running)

    def _part(self, leaf: Array, start: int | Array, size: int) -> Array:
        return leaf if size == leaf.shape[3] else lax.dynamic_slice_in_dim(leaf, start, size, axis=3)


@functools.partial(jax.jit, inline=True, static_argnames=("whole", "one_head"))
def _products(
    queries: Float[Array, "B K M S X"], cache: Float[Array, "B K T H"], whole: str, one_head: str
) -> Float[Array, "B K M S Y"]:
    """The einsum `whole`, in float32.

    For one query per row and few query heads per key head, XLA's CPU backend runs `one_head`, a batch of
    matrix-vector products, faster than the batch of thin matrix products: 0.30 instead of 0.33 ms for 5 key
    heads of 640 slots in blocks of 128.
    """

    def at_once(queries: Array, cache: Array) -> Array:
        return jnp.einsum(whole, queries, cache, preferred_element_type=jnp.float32)

    def head_by_head(queries: Array, cache: Array) -> Array:
        heads = [
            jnp.einsum(one_head, queries[:, :, m, 0], cache, preferred_element_type=jnp.float32)
            for m in range(queries.shape[2])
        ]
        return jnp.stack(heads, axis=2)[:, :, :, None]

    if queries.shape[3] > 1 or queries.shape[2] > _FEW_HEADS:
        return at_once(queries, cache)
    y: Array = ByBackend(portable=at_once, cpu=head_by_head)(queries, cache)
    return y


def start_softmax(
    q: Float[Array, "B K M S H"], sink_logits: Float[Array, "K M"] | None = None, value_dim: int | None = None
) -> Running:
    """The softmax of queries `q` before any key. value_dim: features of values, by default as of queries."""
    value_dim = q.shape[-1] if value_dim is None else value_dim
    shape = q.shape[:-1]
    weighted = jnp.zeros((*shape, value_dim), jnp.float32)
    if sink_logits is None:
        return Running(jnp.full(shape, _MASKED, jnp.float32), jnp.zeros(shape, jnp.float32), weighted)
    logits = jnp.broadcast_to(sink_logits.astype(jnp.float32)[None, :, :, None], shape)
    return Running(logits, jnp.ones(shape, jnp.float32), weighted)


def absorb(
    running: Running,
    logits: Float[Array, "B K M S T"],
    seen: Bool[Array, "B S T"],
    values: Float[Array, "B K T I"],
) -> Running:
    """The softmax once the keys with these logits and values are in it too."""
    maximum = jnp.maximum(running.maximum, logits.max(-1))
    rescale = jnp.exp(running.maximum - maximum)
    # Where nothing was seen yet, maximum == _MASKED and exp gives 1: zero those weights explicitly.
    weights = jnp.where(seen[:, None, None], jnp.exp(logits - maximum[..., None]), 0.0)
    added = _products(weights.astype(values.dtype), values, "bkmst,bkth->bkmsh", "bkt,bkth->bkh")
    return Running(
        maximum,
        running.denominator * rescale + weights.sum(-1),
        running.weighted * rescale[..., None] + added,
    )


def finish_softmax(running: Running) -> Float[Array, "... S H"]:
    """The delayed division, in float32; zeros where nothing was seen."""
    denominator = jnp.where(running.denominator > 0, running.denominator, 1.0)
    return running.weighted / denominator[..., None]
