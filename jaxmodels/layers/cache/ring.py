"""A sliding-window layer keeps the positions that its window still sees, and no others."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.cache.full import FULL_CACHE
from jaxmodels.layers.cache.policy import Heads, Projections, check_at_least_one, rotated, slots_spec
from jaxmodels.layers.kv_cache import EMPTY, KVPending, KVState, take_tags, write_window
from jaxmodels.layers.slot_writes import Ring
from jaxmodels.layers.window import Window


@dataclass(frozen=True, kw_only=True)
class RingCache:
    """Slots for ``reach - 1 + longest_peek`` tokens, used again in turn. Exact: equals the full cache.

    A peek of S tokens from position p on overwrites tokens before ``p + S - slots <= p - reach + 1``, which
    no query from p on sees. So whatever part of it is committed, nothing is lost that is needed.

    Attributes:
        longest_peek: tokens in the longest window that is shown to the layer, prompts' windows included.

    Raises:
        ValueError: `longest_peek` is below 1, or the layer has no sliding window.
    """

    longest_peek: int = 2048

    def __post_init__(self) -> None:
        check_at_least_one("RingCache", {"longest_peek": self.longest_peek})

    def check(self, heads: Heads) -> None:
        if heads.reach is None:
            raise ValueError(
                f"RingCache(longest_peek={self.longest_peek}) needs a layer with a sliding window, got "
                "sliding_window=None: a layer that sees everything must keep everything"
            )

    def state_spec(self, heads: Heads, batch: int, capacity: int) -> KVState:
        return slots_spec(heads.num_kv_heads, heads, batch, min(capacity, self._slots(heads)))

    def write(
        self, heads: Heads, new: Projections, state: KVState, window: Window
    ) -> tuple[Projections, KVPending]:
        new = rotated(heads, new, window)
        if window.slots is None and window.size > self.longest_peek:
            raise ValueError(
                f"write: a window of {window.size} tokens is longer than RingCache's "
                f"longest_peek={self.longest_peek}"
            )
        ring = Ring(size=state.positions.shape[1])
        return new, write_window(state, window, ring, k=new.k, v=new.v)

    def read(
        self, heads: Heads, held: Projections, pending: KVPending, window: Window
    ) -> Float[Array, "B S N H"]:
        return FULL_CACHE.read(heads, held, pending, window)

    def commit(
        self,
        heads: Heads,
        pending: KVPending,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> KVState:
        return FULL_CACHE.commit(heads, pending, n, path)

    def limit(self, heads: Heads, state: KVState) -> int | None:
        slots = state.positions.shape[1]
        return slots if slots < self._slots(heads) else None

    def held(
        self, heads: Heads, state: KVState, length: Int[Array, "B"], slots: Int[Array, "B S"]
    ) -> Int[Array, "B S"]:
        """Of the tokens whose whole reach the ring still holds. It forgets the oldest first, and those in
        whose slots rejected tokens were."""
        assert heads.reach is not None
        ring = Ring(size=state.positions.shape[1])
        oldest = (length - (state.positions != EMPTY).sum(1, dtype=jnp.int32))[:, None]
        reached = jnp.maximum(slots - heads.reach + 1, 0)
        tags = take_tags(state.positions, ring.slots(jnp.maximum(slots, 0)))
        return jnp.where((slots < length[:, None]) & (reached >= oldest), tags, EMPTY)

    def keys_read(self, heads: Heads, context: int) -> float:
        return FULL_CACHE.keys_read(heads, context)

    def _slots(self, heads: Heads) -> int:
        """Slots of a ring that goes round for ever."""
        assert heads.reach is not None
        return heads.reach - 1 + self.longest_peek
