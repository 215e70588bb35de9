"""Scaled dot-product attention in one pass over blocks of keys, the softmax's division delayed to the end.

Memory per query block is O(query block x key block), never O(S x S): the running maximum, denominator and
weighted sum are rescaled as blocks arrive (Rabe and Staats 2021; "Implementing SDPA on Streaming Dataflow").
Queries are laid out ``[B, K, M, S, H]`` with ``M = N / K`` query heads per key/value head, keys and values
``[B, K, T, H]``: heads before slots, so that one head's slots are contiguous. Values may have another
width, I, than keys, and both may be stored in another form than they are used in (`Unpack`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float

KEY_BLOCK = 256
# A single query per head is bound by reading keys: small blocks stay in the inner caches. The block must be
# smaller than the cache: one block that spans it makes XLA copy the whole cache at every step.
KEY_BLOCK_ONE_QUERY = 128
QUERY_BLOCK = 256
MAX_QUERY_BLOCKS = 16

# allowed(query_start, query_size, key_start, key_size) -> bool[B, query_size, key_size]
Allowed: TypeAlias = Callable[[int | Array, int, int | Array, int], Bool[Array, "B S T"]]
# The half-open range of key slots that queries [start, start + size) may attend to.
KeyRange: TypeAlias = Callable[[int, int], tuple[int | Array, int | Array]]

# Makes keys [B, K, T, H] and values [B, K, T, I] of a block of what is stored, [B, C, T, *] each.
Unpack: TypeAlias = Callable[[Array, Array], tuple[Array, Array]]

_FEW_HEADS = 4

_MASKED = -1e30  # finite, so that a row that sees nothing gives zeros instead of NaN


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
    sink_logits: Float[Array, "K M"] | None = None,
    running: "Running | None" = None,
    unpack: Unpack = lambda k, v: (k, v),
    query_block: int = QUERY_BLOCK,
) -> Float[Array, "B K M S I"]:
    """Attention output of every query, in q's dtype.

    `allowed` masks pairs; `key_range` bounds the blocks that are visited at all, so that work follows the
    slots in use and not the capacity. Where it returns Python integers the loop has a static length and the
    result can be differentiated in reverse. `sink_logits` adds one logit per head to the softmax's
    denominator. `running` is the softmax over other keys of the same queries (`sink_logits` included), which
    these continue. `unpack` is applied to each block of `k` and `v` that is visited, once per block of about
    `query_block` queries; they may be one buffer. A query that may attend to nothing gets zeros.
    """
    size = q.shape[3]
    value_dim = jax.eval_shape(unpack, k, v)[1].shape[-1]
    block = max(query_block, -(-size // MAX_QUERY_BLOCKS))
    outputs = []
    for start in range(0, size, block):
        stop = min(start + block, size)
        queries = q[:, :, :, start:stop]
        if running is None:
            begun = start_softmax(queries, sink_logits, value_dim)
        else:
            begun = jax.tree.map(lambda leaf, a=start, b=stop: leaf[:, :, :, a:b], running)
        outputs.append(_attend_block(queries, k, v, unpack, start, allowed, key_range, scores, begun))
    return outputs[0] if len(outputs) == 1 else jnp.concatenate(outputs, axis=3)


@dataclass(frozen=True)
class Running:
    """The streaming softmax's carry: maximum, denominator, weighted sum of values; [B, K, M, S (, H)]."""

    maximum: jax.Array
    denominator: jax.Array
    weighted: jax.Array


jax.tree_util.register_dataclass(Running, ["maximum", "denominator", "weighted"], [])


def _attend_block(
    q: Float[Array, "B K M S H"],
    k: Float[Array, "B C T X"],
    v: Float[Array, "B C T Y"],
    unpack: Unpack,
    start: int,
    allowed: Allowed,
    key_range: KeyRange,
    scores: Scores,
    running: Running,
) -> Float[Array, "B K M S I"]:
    size, slots = q.shape[3], k.shape[2]
    block = min(KEY_BLOCK if size > 1 else KEY_BLOCK_ONE_QUERY, slots)
    low, high = key_range(start, size)

    def step(index: int | Array, running: Running) -> Running:
        # The last block of an odd number of slots is shifted back; slots seen before are masked out.
        begin = index * block
        first = jnp.minimum(begin, slots - block) if slots % block else begin
        seen = allowed(start, size, first, block)
        if slots % block:
            seen = seen & (first + jnp.arange(block) >= begin)
        keys, values = unpack(*(lax.dynamic_slice_in_dim(a, first, block, axis=2) for a in (k, v)))
        return absorb(running, scores(q, keys, seen), seen, values)

    if slots <= block:
        running = step(0, running)
    else:
        if isinstance(low, int) and isinstance(high, int):
            step = jax.checkpoint(step)  # reverse mode would otherwise keep every block's weights: S x T
        running = lax.fori_loop(low // block, -(-high // block), step, running)
    return finish_softmax(running).astype(q.dtype)


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
    return lax.platform_dependent(queries, cache, cpu=head_by_head, default=at_once)


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


def finish_softmax(running: Running) -> Float[Array, "B K M S H"]:
    """The delayed division, in float32; zeros where nothing was seen."""
    denominator = jnp.where(running.denominator > 0, running.denominator, 1.0)
    return running.weighted / denominator[..., None]
