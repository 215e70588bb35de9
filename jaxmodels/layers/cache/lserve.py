"""LServe (https://arxiv.org/abs/2502.14866): streaming heads beside heads that read a few pages."""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.cache.pages import (
    KeyBounds,
    bound_logits,
    empty_bounds,
    gather_pages,
    gather_tags,
    select_pages,
    update_bounds,
)
from jaxmodels.layers.cache.policy import (
    Heads,
    Projections,
    attend_per_head,
    attend_slots,
    check_at_least_one,
    grouped,
    rotated,
    slots_spec,
    ungrouped,
)
from jaxmodels.layers.cache.sinks import attend_sinks_and_recent
from jaxmodels.layers.kv_cache import (
    EMPTY,
    KVPending,
    KVState,
    allowed_by_position,
    commit_window,
    range_in_use,
    write_window,
)
from jaxmodels.layers.masks import Causal
from jaxmodels.layers.slot_writes import Ring
from jaxmodels.layers.spec import buffer
from jaxmodels.layers.window import Window


@struct.dataclass
class Choice:
    """Which pages a token reads beside its own.

    Attributes:
        pages: i32[B, K, P - 1], `NO_PAGE` where there are fewer.
        age: i32[B], tokens since they were chosen.
    """

    pages: jax.Array
    age: jax.Array


@struct.dataclass
class LServeState:
    """What is held, for the two kinds of heads.

    Attributes:
        dense: every slot of the heads that choose pages.
        bounds: on the keys of their pages.
        choice: the pages that they read at present.
        stream: first and recent slots of the streaming heads; None without any.
    """

    dense: KVState
    bounds: KeyBounds
    choice: Choice
    stream: KVState | None


@struct.dataclass
class LServePending:
    """What a window does to the cache.

    Attributes:
        dense: of the heads that choose pages.
        bounds: with the window's keys.
        chosen: the choice as the window left it.
        before: the choice as it was, for rows that commit nothing.
        stream: of the streaming heads; None without any.
    """

    dense: KVPending
    bounds: KeyBounds
    chosen: Choice
    before: Choice
    stream: KVPending | None


@dataclass(frozen=True, kw_only=True)
class LServe:
    """Constant work per decoded token.

    The key/value heads `streaming_heads` see the first `sinks` positions and the `local` last ones, at all
    times. The other heads keep everything. A window of several tokens (a prompt, a draft) reads all of it; a
    single token reads ``budget / page`` pages: the one it lies in, and those of the largest bounds on its
    logits, taken over `subpages` finer pages each. They are chosen anew every `refresh` tokens, and when a
    page begins.

    Read in the released code (mit-han-lab/omniserve): bounds, sub-pages, the last page, the interval and the
    defaults. Done differently: pages are chosen per key head, for the best of its query heads, instead of per
    query head, since its query heads read the same keys; a beginning page refreshes too, so that the page
    just completed is never left out by mistake; `local` is one number (there 8192 in the prefill and 256
    after it). Which heads stream is a finding about the weights (DuoAttention's gates): see
    `streaming_by_gates`.

    Attributes:
        streaming_heads: the key/value heads that see sinks and local positions alone.
        budget: tokens that a single token reads in the other heads.
        page: tokens of a page.
        subpages: parts of a page that have bounds of their own.
        refresh: tokens between two choices of pages.
        sinks, local: first and last positions that streaming heads see.
        longest_peek: tokens in the longest window that is shown to the layer, prompts' windows included.

    Raises:
        ValueError: `page` does not divide `budget`, `subpages` does not divide `page`, a size is below 1, a
            streaming head does not exist or none is left over, or the layer has a sliding window.
    """

    streaming_heads: tuple[int, ...] = ()
    budget: int = 4096
    page: int = 64
    subpages: int = 4
    refresh: int = 4
    sinks: int = 128
    local: int = 256
    longest_peek: int = 2048

    def __post_init__(self) -> None:
        sizes = ("budget", "page", "subpages", "refresh", "sinks", "local", "longest_peek")
        check_at_least_one("LServe", {name: getattr(self, name) for name in sizes})
        if self.budget % self.page:
            raise ValueError(f"LServe: page={self.page} must divide budget={self.budget}")
        if self.page % self.subpages:
            raise ValueError(f"LServe: subpages={self.subpages} must divide page={self.page}")

    def check(self, heads: Heads) -> None:
        if heads.reach is not None:
            raise ValueError(
                f"LServe(budget={self.budget}) is for layers that see everything, "
                f"got sliding_window={heads.reach}"
            )
        every = set(range(heads.num_kv_heads))
        chosen = self.streaming_heads
        if not set(chosen) <= every or len(set(chosen)) < len(chosen) or not every - set(chosen):
            raise ValueError(
                f"LServe: streaming_heads={chosen} must be some, not all, of the "
                f"num_kv_heads={heads.num_kv_heads} heads 0 to {heads.num_kv_heads - 1}"
            )

    def state_spec(self, heads: Heads, batch: int, capacity: int) -> LServeState:
        dense, streaming = self._split(heads)
        slots = -(-capacity // self.page) * self.page
        state = slots_spec(len(dense), heads, batch, slots)
        pages = (batch, len(dense), self.budget // self.page - 1)
        stream = None
        if streaming:
            ring = min(capacity, self.local - 1 + self.longest_peek)
            stream = slots_spec(len(streaming), heads, batch, self.sinks + ring)
        return LServeState(
            dense=state,
            bounds=empty_bounds(state, self.page // self.subpages),
            choice=Choice(
                pages=buffer(pages, ("batch", "kv_heads", None), "int32", EMPTY),
                age=buffer((batch,), ("batch",), "int32", self.refresh),
            ),
            stream=stream,
        )

    def write(
        self, heads: Heads, new: Projections, state: LServeState, window: Window
    ) -> tuple[tuple[Projections, Projections], LServePending]:
        """Held are the queries of the dense and of the streaming heads."""
        if window.size > self.longest_peek:
            raise ValueError(
                f"write: a window of {window.size} tokens is longer than LServe's "
                f"longest_peek={self.longest_peek}"
            )
        new = rotated(heads, new, window)
        dense, streaming = (_take_heads(heads, new, part) for part in self._split(heads))
        pages = write_window(state.dense, window, k=dense.k, v=dense.v)
        stream = None
        if state.stream is not None:
            ring = Ring(size=state.stream.positions.shape[1] - self.sinks, pinned=self.sinks)
            stream = write_window(state.stream, window, ring, k=streaming.k, v=streaming.v)
        bounds = self._updated(state.bounds, pages.written, window.start, window.size)
        chosen = self._chosen(dense, bounds, state.choice, window)
        return (dense, streaming), LServePending(pages, bounds, chosen, state.choice, stream)

    def read(
        self,
        heads: Heads,
        held: tuple[Projections, Projections],
        pending: LServePending,
        window: Window,
    ) -> Float[Array, "B S N H"]:
        dense, streaming = held
        state = pending.dense.written
        if window.size == 1 and isinstance(window.mask, Causal):
            out = self._read_pages(heads, dense, pending, window)
        else:
            out = attend_slots(
                heads,
                dense.q,
                state.k,
                state.v,
                allowed=allowed_by_position(window, state.positions, window.start, None),
                key_range=range_in_use(window, state.positions, window.start, None),
                sink_logits=dense.sink_logits,
            )
        if pending.stream is None:
            return out
        streamed = attend_sinks_and_recent(
            heads, streaming.q, streaming.q, streaming.sink_logits, pending.stream, window, self.local
        )
        return _join_heads(heads, [out, streamed], self._split(heads))

    def commit(
        self,
        heads: Heads,
        pending: LServePending,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> LServeState:
        dense: KVState = commit_window(pending.dense, n, path)
        stream = None if pending.stream is None else commit_window(pending.stream, n, path)
        bounds, choice = pending.bounds, pending.chosen
        if n is not None or path is not None:
            size = pending.dense.positions.shape[1]
            bounds = self._updated(bounds, dense, pending.dense.start, size)
        if n is not None:
            choice = jax.tree.map(
                lambda after, before: jnp.where(_like(jnp.asarray(n) > 0, after), after, before),
                choice,
                pending.before,
            )
        return LServeState(dense=dense, bounds=bounds, choice=choice, stream=stream)

    def limit(self, heads: Heads, state: LServeState) -> int | None:
        slots = state.dense.positions.shape[1]
        if state.stream is None:
            return slots
        ring = state.stream.positions.shape[1] - self.sinks
        return min(slots, ring) if ring < self.local - 1 + self.longest_peek else slots

    def keys_read(self, heads: Heads, context: int) -> float:
        """The bounds' two vectors per sub-page count as two keys, and once in `refresh` tokens."""
        dense, streaming = self._split(heads)
        bounds = 2 * (context // (self.page // self.subpages)) / self.refresh
        paged = min(context, self.budget + bounds) if context > self.budget else context
        streamed = min(context, self.sinks + self.local)
        return (len(dense) * paged + len(streaming) * streamed) / heads.num_kv_heads

    def _split(self, heads: Heads) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The key heads that choose pages, and those that stream."""
        streaming = tuple(sorted(self.streaming_heads))
        return tuple(i for i in range(heads.num_kv_heads) if i not in streaming), streaming

    def _updated(self, bounds: KeyBounds, state: KVState, start: Int[Array, "B"], size: int) -> KeyBounds:
        return update_bounds(bounds, state, start, size, self.page // self.subpages)

    def _chosen(self, dense: Projections, bounds: KeyBounds, choice: Choice, window: Window) -> Choice:
        """The pages that the window's token reads. After several tokens the next one chooses anew."""
        settled = window.valid > 0
        if window.size > 1:
            return replace(choice, age=jnp.where(settled, self.refresh, choice.age))
        last = window.start // self.page
        due = settled & ((choice.age >= self.refresh) | (window.start % self.page == 0))

        def choose() -> Int[Array, "B K P"]:
            q = grouped(dense.q, bounds.low.shape[1])[:, :, :, 0]
            pages = bounds.low.shape[2] // self.subpages
            best = select_pages(bound_logits(q, bounds), last, choice.pages.shape[2], pages)
            return jnp.where(due[:, None, None], best, choice.pages)

        pages = lax.cond(due.any(), choose, lambda: choice.pages)
        age = jnp.where(due, 1, choice.age + settled)
        return Choice(pages=pages, age=age)

    def _read_pages(
        self, heads: Heads, dense: Projections, pending: LServePending, window: Window
    ) -> Float[Array, "B 1 N H"]:
        state, chosen = pending.dense.written, pending.chosen.pages
        last = jnp.broadcast_to((window.start // self.page)[:, None, None], (*chosen.shape[:2], 1))
        pages = jnp.concatenate([chosen, last.astype(jnp.int32)], axis=2)
        tags = gather_tags(state.positions, pages, self.page)
        seen = (tags != EMPTY) & (tags <= window.positions[:, :, None])
        out = attend_per_head(
            heads,
            grouped(dense.q, state.k.shape[1]),
            gather_pages(state.k, pages, self.page),
            gather_pages(state.v, pages, self.page),
            seen[:, :, None],
            dense.sink_logits,
        )
        return ungrouped(out)


def streaming_by_gates(gates: Float[Array, "K"], fraction: float = 0.5) -> tuple[int, ...]:
    """The `fraction` of a layer's key/value heads with the smallest retrieval gates (DuoAttention).

    Raises ValueError where `fraction` is not in [0, 1).
    """
    if not 0 <= fraction < 1:
        raise ValueError(f"streaming_by_gates: fraction={fraction} must lie in [0, 1)")
    order = sorted(range(len(gates)), key=lambda head: float(gates[head]))
    return tuple(sorted(order[: int(fraction * len(order))]))


def _like(rows: Array, leaf: Array) -> Array:
    return rows.reshape(-1, *[1] * (leaf.ndim - 1))


def _take_heads(heads: Heads, new: Projections, kv_heads: tuple[int, ...]) -> Projections:
    """The projections of some key heads and of the query heads that they serve."""
    index = jnp.asarray(kv_heads, jnp.int32)
    by_head = new.q.reshape(*new.q.shape[:2], heads.num_kv_heads, -1, heads.head_dim)
    return Projections(
        q=by_head[:, :, index].reshape(*new.q.shape[:2], -1, heads.head_dim),
        k=new.k[:, :, index],
        v=new.v[:, :, index],
        sink_logits=None if new.sink_logits is None else new.sink_logits[index],
    )


def _join_heads(
    heads: Heads, outs: list[Float[Array, "B S _ H"]], parts: tuple[tuple[int, ...], ...]
) -> Float[Array, "B S N H"]:
    """The inverse of `_take_heads`, over all parts."""
    batch, size = outs[0].shape[:2]
    width = heads.num_heads // heads.num_kv_heads
    by_head = [out.reshape(batch, size, -1, width, heads.head_dim) for out in outs]
    order = [head for part in parts for head in part]
    back = jnp.asarray([order.index(head) for head in range(len(order))], jnp.int32)
    return jnp.concatenate(by_head, axis=2)[:, :, back].reshape(batch, size, heads.num_heads, heads.head_dim)
