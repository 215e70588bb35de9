"""First tokens and recent ones: StreamingLLM (https://arxiv.org/abs/2309.17453) and StreamingVLM after it."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.attend import absorb, start_softmax
from jaxmodels.layers.cache.policy import (
    Heads,
    Projections,
    attend_slots,
    check_at_least_one,
    grouped,
    slots_spec,
)
from jaxmodels.layers.kv_cache import (
    KVPending,
    KVState,
    allowed_by_position,
    commit_window,
    range_in_use,
    write_window,
)
from jaxmodels.layers.rope import apply_rope
from jaxmodels.layers.slot_writes import Ring
from jaxmodels.layers.window import Window


def attend_sinks_and_recent(
    heads: Heads,
    to_sinks: Float[Array, "B S N H"],
    to_recent: Float[Array, "B S N H"],
    logits: Float[Array, "K M"] | None,
    pending: KVPending,
    window: Window,
    recent: int,
) -> Float[Array, "B S N H"]:
    """One softmax over the pinned slots of a ring and those of the last `recent` positions, each with queries
    of its own. logits: one per head in the denominator."""
    state, ring = pending.written, pending.ring
    assert ring is not None
    q = grouped(to_sinks, state.k.shape[1])
    k, v = (a[:, :, : ring.pinned].astype(q.dtype) for a in (state.k, state.v))
    seen = allowed_by_position(window, state.positions, window.start, None, ring)(
        0, window.size, 0, ring.pinned
    )
    near = allowed_by_position(window, state.positions, window.start, recent, ring)

    def allowed(q0: int | Array, q_size: int, k0: int | Array, k_size: int) -> Bool[Array, "B S T"]:
        return near(q0, q_size, k0, k_size) & (k0 + jnp.arange(k_size) >= ring.pinned)

    return attend_slots(
        heads,
        to_recent,
        state.k,
        state.v,
        allowed=allowed,
        key_range=range_in_use(window, state.positions, window.start, recent, ring),
        running=absorb(start_softmax(q, logits), heads.scores(q, k, seen), seen, v),
    )


@dataclass(frozen=True, kw_only=True)
class SinkCache:
    """A token sees the first `sinks` tokens and the `recent` last ones, itself included, for ever.

    Positions are counted inside the cache: what lies between the two is left out, so that no distance exceeds
    ``sinks + recent`` however long the stream. Rotary logits depend on distances alone, and the distances of
    the recent tokens are their own. So keys are stored rotated once, at their own positions, and it is the
    query that is turned twice: to its own position p for recent keys, to ``min(p, sinks + recent - 1)``,
    its place in the cache, for the sinks. This equals the released code, which stores keys unrotated and
    turns all of them at every step. Angles are float32 products with p, so that in streams of
    millions of tokens the fastest features lose some hundredths of a radian.

    A peek of S tokens is exact whatever part of it is committed, and any split into windows gives the same.

    Attributes:
        sinks: first tokens that are always seen.
        recent: last tokens that are seen, a token's own included.
        longest_peek: tokens in the longest window that is shown to the layer, prompts' windows included.

    Raises:
        ValueError: a size is below 1, or the layer has a sliding window of its own.
    """

    sinks: int = 4
    recent: int = 1020
    longest_peek: int = 2048

    def __post_init__(self) -> None:
        check_at_least_one(
            "SinkCache", {"sinks": self.sinks, "recent": self.recent, "longest_peek": self.longest_peek}
        )

    def check(self, heads: Heads) -> None:
        if heads.reach is not None:
            raise ValueError(
                f"SinkCache(recent={self.recent}) is for layers that see everything, "
                f"got sliding_window={heads.reach}"
            )

    def state_spec(self, heads: Heads, batch: int, capacity: int) -> KVState:
        slots = self.sinks + min(capacity, self.recent - 1 + self.longest_peek)
        return slots_spec(heads.num_kv_heads, heads, batch, slots)

    def write(
        self, heads: Heads, new: Projections, state: KVState, window: Window
    ) -> tuple[Projections, KVPending]:
        """Held are the unrotated queries."""
        if window.size > self.longest_peek:
            raise ValueError(
                f"write: a window of {window.size} tokens is longer than SinkCache's "
                f"longest_peek={self.longest_peek}"
            )
        ring = Ring(size=state.positions.shape[1] - self.sinks, pinned=self.sinks)
        k = self._turned(heads, new.k, window.positions, window)
        return new, write_window(state, window, ring, k=k, v=new.v)

    def read(
        self, heads: Heads, held: Projections, pending: KVPending, window: Window
    ) -> Float[Array, "B S N H"]:
        in_cache = jnp.minimum(window.positions, self.sinks + self.recent - 1)
        return attend_sinks_and_recent(
            heads,
            self._turned(heads, held.q, in_cache, window),
            self._turned(heads, held.q, window.positions, window),
            held.sink_logits,
            pending,
            window,
            self.recent,
        )

    def commit(
        self,
        heads: Heads,
        pending: KVPending,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> KVState:
        state: KVState = commit_window(pending, n, path)
        return state

    def limit(self, heads: Heads, state: KVState) -> int | None:
        ring = state.positions.shape[1] - self.sinks
        return ring if ring < self.recent - 1 + self.longest_peek else None

    def keys_read(self, heads: Heads, context: int) -> float:
        return min(context, self.sinks + self.recent)

    def _turned(
        self, heads: Heads, x: Float[Array, "B S N H"], positions: Int[Array, "B S"], window: Window
    ) -> Float[Array, "B S N H"]:
        """Rotated to `positions`, by the frequencies of a sequence that never outgrows the cache."""
        if heads.rope is None:
            return x
        lengths = jnp.minimum(window.lengths, self.sinks + self.recent)
        return apply_rope(x, heads.rope.rotations(positions, lengths), heads.rope.style)
