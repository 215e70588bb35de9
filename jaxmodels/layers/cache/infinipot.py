"""InfiniPot-V (https://arxiv.org/abs/2506.15745): a stream of any length under a fixed cap of memory."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.cache.bounded import (
    PendingSlots,
    Slots,
    are_best,
    kept_first,
    reorder,
    settle,
    slots_per_head,
    weigh,
    when_full,
    write_behind,
)
from jaxmodels.layers.cache.policy import Heads, Projections, check_at_least_one, rotated
from jaxmodels.layers.kv_cache import EMPTY
from jaxmodels.layers.window import Window


@dataclass(frozen=True, kw_only=True)
class InfiniPotV:
    """`budget` slots per key head, of which `keep` stay in use when the room for a longest window is gone.

    What stays: the first `system` tokens; the last `recent` frames of `frame` tokens each; by temporal
    redundancy, the tokens whose keys resemble those at the same place of the recent frames least,

        score_j = - mean over recent frames of cos(k_j, k_same place),

    so many that with the recent frames they are `redundancy_share` of ``keep - system``; and for the rest
    of `keep` the largest norms of values. Of text, ``frame=1``: every recent token is at the same place.

    Read in the released code (aiha-lab/InfiniPot-V): both scores, keys compared as cached (rotated), heads on
    their own, half of the budget for either. Done differently: a token's place in its frame follows from its
    position, where the code cuts what is left anew into frames; the number of recent frames is fixed, there a
    quarter of those held; values' norms are not pooled over neighbours (which that code does on request).

    Which tokens stay depends on when compression happens, so that the split into windows matters; how a
    window is committed does not.

    Attributes:
        budget: slots per key head.
        keep: slots that stay in use after a compression.
        recent: frames at the end that always stay.
        frame: tokens of a frame; 1 for text.
        system: tokens at the beginning that always stay.
        redundancy_share: of ``keep - system``, what goes to recent frames and to tokens chosen by redundancy.
        longest_peek: tokens in the longest window that is shown to the layer.

    Raises:
        ValueError: a size is below 1 (`system` below 0), `keep` leaves no room in `budget` for the longest
            window, `redundancy_share` is not in [0, 1], or the recent frames do not fit their share.
    """

    budget: int
    keep: int
    recent: int
    frame: int = 1
    system: int = 0
    redundancy_share: float = 0.5
    longest_peek: int = 512

    def __post_init__(self) -> None:
        names = ("budget", "keep", "recent", "frame", "longest_peek")
        check_at_least_one("InfiniPotV", {name: getattr(self, name) for name in names})
        if self.keep + self.longest_peek > self.budget:
            raise ValueError(
                f"InfiniPotV: keep={self.keep} and longest_peek={self.longest_peek} must fit "
                f"budget={self.budget}"
            )
        if not 0 <= self.redundancy_share <= 1:
            raise ValueError(f"InfiniPotV: redundancy_share={self.redundancy_share} must lie in [0, 1]")
        if not 0 <= self.system < self.keep:
            raise ValueError(f"InfiniPotV: system={self.system} must lie in [0, keep={self.keep})")
        if self._by_redundancy < 0:
            raise ValueError(
                f"InfiniPotV: recent={self.recent} frames of frame={self.frame} tokens exceed their share, "
                f"redundancy_share={self.redundancy_share} of {self.keep - self.system} tokens"
            )

    def check(self, heads: Heads) -> None:
        """It fits every layer."""

    def state_spec(self, heads: Heads, batch: int, capacity: int) -> Slots:
        return slots_per_head(heads, batch, min(capacity, self.budget))

    def write(
        self, heads: Heads, new: Projections, state: Slots, window: Window
    ) -> tuple[Projections, PendingSlots]:
        new = rotated(heads, new, window)
        if state.k.shape[2] == self.budget:
            state = when_full(state, state.used, self.budget - self.longest_peek, self._compress)
        return new, write_behind("InfiniPotV", self.longest_peek, state, new, window)

    def read(
        self, heads: Heads, held: Projections, pending: PendingSlots, window: Window
    ) -> Float[Array, "B S N H"]:
        return weigh(heads, held.q, held.sink_logits, pending.written, window)[0]

    def commit(
        self,
        heads: Heads,
        pending: PendingSlots,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> Slots:
        return settle(pending, n, path)

    def limit(self, heads: Heads, state: Slots) -> int | None:
        slots = state.k.shape[2]
        return slots if slots < self.budget else None

    def keys_read(self, heads: Heads, context: int) -> float:
        return min(context, self.budget)

    @property
    def _by_redundancy(self) -> int:
        """How many tokens beside the recent frames stay because nothing recent resembles them."""
        return round(self.redundancy_share * (self.keep - self.system)) - self.recent * self.frame

    def _compress(self, state: Slots, due: Bool[Array, "B"]) -> Slots:
        newest = state.positions.max(-1, keepdims=True)
        recent = state.positions > newest - self.recent * self.frame
        protected = recent | (state.positions < self.system)
        held = state.positions != EMPTY
        place = (state.positions - self.system) % self.frame
        novelty = -resemblance(state.k, place, recent & held, self.frame)
        novel = jnp.where(held & ~protected, novelty, -jnp.inf)
        norms = jnp.linalg.norm(state.v.astype(jnp.float32), axis=-1)
        stays = protected | are_best(novel, self._by_redundancy)
        priority = jnp.where(held, jnp.where(stays, jnp.inf, norms), -jnp.inf)
        return reorder(state, kept_first(priority, self.keep), self.keep, due)[0]


def resemblance(
    k: Float[Array, "B K T H"], place: Int[Array, "B K T"], recent: Bool[Array, "B K T"], places: int
) -> Float[Array, "B K T"]:
    """The mean cosine of each key with the recent keys at the same place; 0 where there are none.

    The mean of products with unit vectors is the product with their mean, of which there is one per place.
    """
    k = k.astype(jnp.float32)
    unit = k / (jnp.linalg.norm(k, axis=-1, keepdims=True) + 1e-9)
    at_place = jax.nn.one_hot(place, places, dtype=jnp.float32)
    counted = jnp.where(recent[..., None], at_place, 0.0)
    means = jnp.einsum("bktp,bkth->bkph", counted, unit) / jnp.maximum(counted.sum(2), 1.0)[..., None]
    return jnp.einsum("bkth,bkth->bkt", unit, jnp.take_along_axis(means, place[..., None], axis=2))
