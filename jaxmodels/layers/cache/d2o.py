"""D2O (https://arxiv.org/abs/2406.13035): what is evicted is merged into the nearest slot that stays."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.cache.bounded import (
    PendingSlots,
    Slots,
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
from jaxmodels.layers.masks import Mask, as_mask
from jaxmodels.layers.spec import buffer
from jaxmodels.layers.window import Window, take_path

_UNSET = -2.0  # below every cosine
_CHUNK = 64


@struct.dataclass
class D2OState:
    """What is held, and how evicted tokens are treated.

    Attributes:
        slots: the keys and values.
        mass: f32[B, K, T], the attention that each slot has been given so far.
        threshold: f32[B, K], the similarity from which an evicted token is merged; `_UNSET` before the first
            eviction.
    """

    slots: Slots
    mass: jax.Array
    threshold: jax.Array


@struct.dataclass
class D2OPending:
    """What a window does to the cache, and what is needed to weigh a part of it.

    Attributes:
        slots: the keys and values, the window's included.
        mass: attention given so far, with the window's queries.
        mass_before: without them.
        threshold: as in `D2OState`.
        q, sink_logits, mask, index: the window's.
    """

    slots: PendingSlots
    mass: jax.Array
    mass_before: jax.Array
    threshold: jax.Array
    q: jax.Array
    sink_logits: jax.Array | None
    mask: Mask
    index: jax.Array | None


@dataclass(frozen=True, kw_only=True)
class D2O:
    """At most `budget` tokens per key head stay: the first `sinks`, the `recent` last, and those that have
    been given most attention.

    An evicted key looks for the kept key with the largest cosine u. From the threshold on, it is merged into
    it, values alike, and else forgotten:

        k' = (e k + sum_i exp(u_i) k_i) / (e + sum_i exp(u_i)).

    The threshold is the mean u of the first eviction, later ``(1 - smoothing) threshold + smoothing mean u``.

    Read in the released code (AIoT-MLSys-Lab/d2o): accumulated attention per head, four protected sinks, keys
    compared and merged as cached (rotated), the threshold with smoothing 0.5, budgets by layer (see
    `layer_budgets`). Done differently: the merging weights are those of the paper, which add up to one, where
    the code takes a mean of products; thresholds are per head, where the code has one per layer; `spare`
    tokens are evicted together (there 1), which costs that much less.

    Which tokens stay depends on when eviction happens, so that the split into windows matters; how a window
    is committed does not.

    Attributes:
        budget: tokens that are kept per key head.
        recent: of these, the last ones that are never evicted.
        sinks: the first ones that are never evicted.
        spare: slots beyond `budget`, so that as many tokens are evicted together.
        smoothing: weight of the newest eviction's mean similarity in the threshold.
        longest_peek: tokens in the longest window that is shown to the layer; room is kept for it.

    Raises:
        ValueError: a size is below 1, `smoothing` is not in (0, 1], or more is protected than `budget`.
    """

    budget: int
    recent: int
    sinks: int = 4
    spare: int = 16
    smoothing: float = 0.5
    longest_peek: int = 512

    def __post_init__(self) -> None:
        names = ("budget", "recent", "sinks", "spare", "longest_peek")
        check_at_least_one("D2O", {name: getattr(self, name) for name in names})
        if self.sinks + self.recent > self.budget:
            raise ValueError(
                f"D2O: sinks={self.sinks} and recent={self.recent} must fit budget={self.budget}"
            )
        if not 0 < self.smoothing <= 1:
            raise ValueError(f"D2O: smoothing={self.smoothing} must lie in (0, 1]")

    @property
    def slots(self) -> int:
        """Slots of a cache that has reached its size."""
        return self.budget + self.spare - 1 + self.longest_peek

    def check(self, heads: Heads) -> None:
        """It fits every layer."""

    def state_spec(self, heads: Heads, batch: int, capacity: int) -> D2OState:
        slots = min(capacity, self.slots)
        shape, axes = (batch, heads.num_kv_heads, slots), ("batch", "kv_heads", "slots")
        return D2OState(
            slots=slots_per_head(heads, batch, slots),
            mass=buffer(shape, axes, "float32"),
            threshold=buffer(shape[:2], axes[:2], "float32", _UNSET),
        )

    def write(
        self, heads: Heads, new: Projections, state: D2OState, window: Window
    ) -> tuple[Float[Array, "B S N H"], D2OPending]:
        """Held is the output itself: what is kept depends on the attention weights."""
        new = rotated(heads, new, window)
        if state.slots.k.shape[2] == self.slots:
            state = when_full(state, state.slots.used, self.budget + self.spare - 1, self._compress)
        slots = write_behind("D2O", self.longest_peek, state.slots, new, window)
        out, given = weigh(heads, new.q, new.sink_logits, slots.written, window)
        pending = D2OPending(
            slots=slots,
            mass=state.mass + given,
            mass_before=state.mass,
            threshold=state.threshold,
            q=new.q,
            sink_logits=new.sink_logits,
            mask=as_mask(window.mask),
            index=window.index,
        )
        return out, pending

    def read(
        self, heads: Heads, held: Float[Array, "B S N H"], pending: D2OPending, window: Window
    ) -> Float[Array, "B S N H"]:
        return held

    def commit(
        self,
        heads: Heads,
        pending: D2OPending,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> D2OState:
        slots = settle(pending.slots, n, path)
        mass = pending.mass
        if n is not None or path is not None:
            mass = pending.mass_before + self._given(heads, pending, slots, path)
        return D2OState(slots=slots, mass=mass, threshold=pending.threshold)

    def limit(self, heads: Heads, state: D2OState) -> int | None:
        slots = state.slots.k.shape[2]
        return slots if slots < self.slots else None

    def keys_read(self, heads: Heads, context: int) -> float:
        return min(context, self.budget + self.spare)

    def _given(
        self, heads: Heads, pending: D2OPending, slots: Slots, path: Int[Array, "B P"] | None
    ) -> Float[Array, "B K T"]:
        """The attention that the committed queries give."""
        before = pending.slots.written.used
        q, positions, index = pending.q, pending.slots.positions, pending.index
        if path is not None:
            q, positions = take_path(q, path), take_path(positions, path)
            index = path if index is None else take_path(index, path)
        window = Window(
            start=before, positions=positions, valid=slots.used - before, mask=pending.mask, index=index
        )
        return weigh(heads, q, pending.sink_logits, replace(slots, used=before), window)[1]

    def _compress(self, state: D2OState, due: Bool[Array, "B"]) -> D2OState:
        positions = state.slots.positions
        newest = positions.max(-1, keepdims=True)
        protected = (positions < self.sinks) | (positions > newest - self.recent)
        priority = jnp.where(protected, jnp.inf, state.mass)
        priority = jnp.where(positions == EMPTY, -jnp.inf, priority)
        moved, order = reorder(state.slots, kept_first(priority, self.budget), self.budget, due)
        mass = jnp.take_along_axis(state.mass, order, axis=2)
        mass = jnp.where(moved.positions == EMPTY, 0.0, mass)
        count = jnp.where(due, state.slots.used - self.budget, 0)
        best, nearest = nearest_kept(moved.k, self.budget, count)
        evicted = jnp.arange(best.shape[-1]) < count[:, None, None]
        mean = jnp.where(evicted, best, 0.0).sum(-1) / jnp.maximum(count, 1)[:, None]
        smoothed = (1 - self.smoothing) * state.threshold + self.smoothing * mean
        threshold = jnp.where(state.threshold == _UNSET, mean, smoothed)
        threshold = jnp.where(due[:, None], threshold, state.threshold)
        weights = jnp.where(evicted & (best >= threshold[..., None]), jnp.exp(best), 0.0)
        k, v = (merge_evicted(a, self.budget, weights, nearest, count) for a in (moved.k, moved.v))
        return D2OState(slots=replace(moved, k=k, v=v), mass=mass, threshold=threshold)


def nearest_kept(
    k: Float[Array, "B K T H"], keep: int, count: Int[Array, "B"]
) -> tuple[Float[Array, "B K C"], Int[Array, "B K C"]]:
    """For each of the `count` evicted keys behind the first `keep`: the largest cosine with one of these, and
    its slot. As many chunks are visited as the longest row needs."""
    kept, evicted = (_unit(a) for a in (k[:, :, :keep], k[:, :, keep:]))
    chunk = min(_CHUNK, evicted.shape[2])

    def body(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        begin = jnp.minimum(i * chunk, evicted.shape[2] - chunk)
        part = lax.dynamic_slice_in_dim(evicted, begin, chunk, axis=2)
        cosines = jnp.einsum("bkch,bkth->bkct", part, kept)
        found = cosines.max(-1), cosines.argmax(-1).astype(jnp.int32)
        best, nearest = (
            lax.dynamic_update_slice_in_dim(a, b, begin, 2) for a, b in zip(carry, found, strict=True)
        )
        return best, nearest

    shape = evicted.shape[:3]
    empty = jnp.zeros(shape, jnp.float32), jnp.zeros(shape, jnp.int32)
    return lax.fori_loop(0, -(-count.max() // chunk), body, empty)


def merge_evicted(
    buffer: Float[Array, "B K T H"],
    keep: int,
    weights: Float[Array, "B K C"],
    nearest: Int[Array, "B K C"],
    count: Int[Array, "B"],
) -> Float[Array, "B K T H"]:
    """Each kept slot's mean with the evicted ones that are nearest to it, itself with weight e."""
    evicted = buffer[:, :, keep:].astype(jnp.float32)
    chunk = min(_CHUNK, evicted.shape[2])

    def body(i: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        total, added = carry
        begin = jnp.minimum(i * chunk, evicted.shape[2] - chunk)
        part, w, to = (lax.dynamic_slice_in_dim(a, begin, chunk, 2) for a in (evicted, weights, nearest))
        w = jnp.where(begin + jnp.arange(chunk) >= i * chunk, w, 0.0)
        goes_to = jnp.where(to[..., None] == jnp.arange(keep), w[..., None], 0.0)
        return total + goes_to.sum(2), added + jnp.einsum("bkct,bkch->bkth", goes_to, part)

    kept = buffer[:, :, :keep].astype(jnp.float32)
    begun = jnp.full(kept.shape[:3], math.e, jnp.float32), math.e * kept
    total, added = lax.fori_loop(0, -(-count.max() // chunk), body, begun)
    return buffer.at[:, :, :keep].set((added / total[..., None]).astype(buffer.dtype))


def layer_budgets(variances: Sequence[float], mean_budget: int, *, least: int) -> tuple[int, ...]:
    """D2O's budgets by layer: ``layers * mean_budget * softmax(-variance)``, at least `least`.

    variances: of the attention that slots are given in each layer, scaled to [0, 1] by head (see
    `jaxmodels.models.cache_policies.attention_variances`). Where attention is spread out, its variance is
    small and more tokens have to stay.
    """
    weights = [math.exp(-v) for v in variances]
    share = len(weights) * mean_budget / sum(weights)
    return tuple(max(least, round(share * w)) for w in weights)


def _unit(x: Float[Array, "B K T H"]) -> Float[Array, "B K T H"]:
    x = x.astype(jnp.float32)
    return x / (jnp.linalg.norm(x, axis=-1, keepdims=True) + 1e-9)
