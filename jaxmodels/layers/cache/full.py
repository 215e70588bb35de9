"""Every token keeps its slot, every query reads all it may see."""

from dataclasses import dataclass

from jaxtyping import Array, Float, Int

from jaxmodels.layers.cache.policy import (
    Heads,
    Projections,
    attend_slots,
    mean_weights,
    rotated,
    slots_spec,
)
from jaxmodels.layers.kv_cache import (
    KVPending,
    KVState,
    allowed_by_position,
    commit_window,
    range_in_use,
    take_tags,
    write_window,
)
from jaxmodels.layers.window import Window


@dataclass(frozen=True)
class FullCache:
    """One slot per token of capacity. `read` visits the slots in use."""

    def check(self, heads: Heads) -> None:
        """It fits every layer."""

    def state_spec(self, heads: Heads, batch: int, capacity: int) -> KVState:
        return slots_spec(heads.num_kv_heads, heads, batch, capacity)

    def write(
        self, heads: Heads, new: Projections, state: KVState, window: Window
    ) -> tuple[Projections, KVPending]:
        """Held are the rotated projections, of which `read` takes the queries."""
        new = rotated(heads, new, window)
        return new, write_window(state, window, k=new.k, v=new.v)

    def read(
        self, heads: Heads, held: Projections, pending: KVPending, window: Window
    ) -> Float[Array, "B S N H"]:
        state = pending.written
        slots = window, state.positions, window.start, heads.reach, pending.ring, heads.chunk
        return attend_slots(
            heads,
            held.q,
            state.k,
            state.v,
            allowed=allowed_by_position(*slots),
            key_range=range_in_use(*slots),
            sink_logits=held.sink_logits,
        )

    def weights(
        self, heads: Heads, held: Projections, pending: KVPending, window: Window
    ) -> Float[Array, "B S T"]:
        """What `read` weighs each slot with, the mean over heads. Dense: for windows of few tokens."""
        state = pending.written
        seen = allowed_by_position(
            window, state.positions, window.start, heads.reach, pending.ring, heads.chunk
        )
        return mean_weights(
            heads, held.q, state.k, seen(0, window.size, 0, state.k.shape[2]), held.sink_logits
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
        return state.positions.shape[1]

    def held(
        self, heads: Heads, state: KVState, length: Int[Array, "B"], slots: Int[Array, "B S"]
    ) -> Int[Array, "B S"]:
        return take_tags(state.positions, slots)

    def keys_read(self, heads: Heads, context: int) -> float:
        return context if heads.reach is None else min(context, heads.reach)


FULL_CACHE = FullCache()
