"""What an attention layer asks of its cache, and what the policies share."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.attend import (
    Allowed,
    Bias,
    KeyRange,
    Running,
    Scores,
    absorb,
    attend,
    finish_softmax,
    start_softmax,
)
from jaxmodels.layers.kv_cache import KVState, empty_slots
from jaxmodels.layers.rope import Rotary, apply_rope
from jaxmodels.layers.spec import buffer
from jaxmodels.layers.window import Window


@dataclass(frozen=True, kw_only=True)
class Heads:
    """What a policy knows of its layer.

    Attributes:
        num_heads, num_kv_heads, head_dim: the layer's.
        scores: how logits are made.
        reach: positions that a token sees, its own included; None for all.
        chunk: positions are cut into chunks of this length, and a token sees none of an earlier one; None for
            no chunks.
        rope: rotary embedding of queries and keys, if any.
    """

    num_heads: int
    num_kv_heads: int
    head_dim: int
    scores: Scores
    reach: int | None = None
    chunk: int | None = None
    rope: Rotary | None = None


@struct.dataclass
class Projections:
    """A window's queries, keys and values as a layer hands them to its policy: not rotated yet.

    Attributes:
        q: [B, S, N, H].
        k, v: [B, S, K, H].
        sink_logits: [K, M], logits in the denominator of the softmax; None for a layer without.
    """

    q: jax.Array
    k: jax.Array
    v: jax.Array
    sink_logits: jax.Array | None


class CachePolicy(Protocol):
    """The middle of an attention layer, between its projections and its output.

    Implementations are hashable frozen dataclasses. The verbs are those of a `Mixer` and keep its contract:
    `commit` of n tokens equals having been shown only n, padding leaves no trace, a state's type never
    changes, and buffers are written in place.
    """

    def check(self, heads: Heads) -> None:
        """Raises ValueError where the policy does not fit the layer."""

    def state_spec(self, heads: Heads, batch: int, capacity: int) -> Any:
        """The state of an empty history that grows to at most `capacity` tokens, pending ones included; see
        `Stateful.state_spec`."""

    def write(self, heads: Heads, new: Projections, state: Any, window: Window) -> tuple[Any, Any]:
        """Stores a window: (what `read` needs beside it, what `commit` needs)."""

    def read(self, heads: Heads, held: Any, pending: Any, window: Window) -> Float[Array, "B S N H"]:
        """What the window's queries find. Changes nothing."""

    def commit(
        self,
        heads: Heads,
        pending: Any,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> Any:
        """The state once the first n tokens (of `path`) are history."""

    def limit(self, heads: Heads, state: Any) -> int | None:
        """How many tokens a row's history may have, pending ones included; None for any number."""

    def keys_read(self, heads: Heads, context: int) -> float:
        """How many keys a token reads per head that sees `context` tokens, itself included."""


@runtime_checkable
class KeepsEntries(Protocol):
    """A policy whose entries can be written anew one by one; see `Refreshable`."""

    def held(
        self, heads: Heads, state: Any, length: Int[Array, "B"], slots: Int[Array, "B S"]
    ) -> Int[Array, "B S"]:
        """The positions of the tokens of these numbers; EMPTY where the state does not hold the token, or
        not all that it sees."""


@runtime_checkable
class Weighing(Protocol):
    """A policy that reads single slots and can say how much of each."""

    def weights(self, heads: Heads, held: Projections, pending: Any, window: Window) -> Float[Array, "B S T"]:
        """What the queries of a window that was written weigh each slot with, f32, the mean over heads."""


def rotated(heads: Heads, new: Projections, window: Window) -> Projections:
    """Queries and keys at their own positions."""
    if heads.rope is None:
        return new
    rotations = window.rotation(heads.rope)
    q, k = (apply_rope(a, rotations, heads.rope.style) for a in (new.q, new.k))
    return replace(new, q=q, k=k)


def slots_spec(num_kv_heads: int, heads: Heads, batch: int, slots: int) -> KVState:
    """Slots for `num_kv_heads` of the layer's heads, all empty, as part of a `state_spec`."""
    entries = buffer((batch, num_kv_heads, slots, heads.head_dim), ("batch", "kv_heads", "slots", "head_dim"))
    return KVState(k=entries, v=entries, positions=empty_slots(batch, slots))


def grouped(q: Float[Array, "B S N H"], num_kv_heads: int) -> Float[Array, "B K M S H"]:
    """Queries by the key head that serves them."""
    batch, size, heads, width = q.shape
    by_head = q.reshape(batch, size, num_kv_heads, heads // num_kv_heads, width)
    return jnp.transpose(by_head, (0, 2, 3, 1, 4))


def ungrouped(out: Float[Array, "B K M S H"]) -> Float[Array, "B S N H"]:
    """The inverse of `grouped`."""
    by_token = jnp.transpose(out, (0, 3, 1, 2, 4))
    return by_token.reshape(*by_token.shape[:2], -1, by_token.shape[-1])


def attend_slots(
    heads: Heads,
    q: Float[Array, "B S N H"],
    k: Float[Array, "B K T H"],
    v: Float[Array, "B K T H"],
    *,
    allowed: Allowed,
    key_range: KeyRange,
    bias: Bias | None = None,
    sink_logits: Float[Array, "K M"] | None = None,
    running: Running | None = None,
) -> Float[Array, "B S N H"]:
    """`attend` for queries by token, over as many key heads as `k` has."""
    out = attend(
        grouped(q, k.shape[1]),
        k.astype(q.dtype),
        v.astype(q.dtype),
        allowed=allowed,
        key_range=key_range,
        scores=heads.scores,
        bias=bias,
        sink_logits=sink_logits,
        running=running,
    )
    return ungrouped(out)


def mean_weights(
    heads: Heads,
    q: Float[Array, "B S N H"],
    k: Float[Array, "B K T H"],
    seen: Bool[Array, "B S T"],
    sink_logits: Float[Array, "K M"] | None = None,
) -> Float[Array, "B S T"]:
    """What each query weighs each key with, f32, the mean over heads; of a sink's share nothing is seen."""
    queries = grouped(q, k.shape[1])
    logits = heads.scores(queries, k.astype(q.dtype), seen)
    sinks = jnp.full((*logits.shape[:-1], 0), 0.0, logits.dtype)
    if sink_logits is not None:
        sinks = jnp.broadcast_to(sink_logits[None, :, :, None, None], (*logits.shape[:-1], 1))
    weights = jax.nn.softmax(jnp.concatenate([sinks, logits], axis=-1), axis=-1)[..., sinks.shape[-1] :]
    return jnp.where(seen, weights.mean((1, 2)), 0.0)


def attend_per_head(
    heads: Heads,
    q: Float[Array, "B K M S H"],
    k: Float[Array, "B K T H"],
    v: Float[Array, "B K T H"],
    seen: Bool[Array, "B K S T"],
    sink_logits: Float[Array, "K M"] | None = None,
) -> Float[Array, "B K M S H"]:
    """Attention at once over few keys, of which every key head has others."""

    def fold(leaf: Array) -> Array:
        return leaf.reshape(-1, 1, *leaf.shape[2:])

    k, v = fold(k.astype(q.dtype)), fold(v.astype(q.dtype))
    visible = seen.reshape(-1, *seen.shape[2:])
    running = absorb(
        jax.tree.map(fold, start_softmax(q, sink_logits)), heads.scores(fold(q), k, visible), visible, v
    )
    return finish_softmax(running).astype(q.dtype).reshape(q.shape)


def check_at_least_one(policy: str, sizes: Mapping[str, int]) -> None:
    """Raises ValueError naming the first of a policy's sizes that is below 1."""
    for name, value in sizes.items():
        if value < 1:
            raise ValueError(f"{policy}: {name}={value} must be at least 1")
