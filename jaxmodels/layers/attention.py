"""Multi-head, grouped-query and multi-query attention over a cache whose slots carry their positions."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.attend import Allowed, KeyRange, Scores, attend
from jaxmodels.layers.linear import linear
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.rope import Rope, apply_rope
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree
from jaxmodels.layers.window import Bidirectional, Causal, Window

EMPTY = -1


@struct.dataclass
class KVState:
    """Keys and values by slot. k, v: [B, K, T, H]; positions: i32[B, T], -1 marks an empty slot."""

    k: jax.Array
    v: jax.Array
    positions: jax.Array


@struct.dataclass
class KVPending:
    """The cache with the window's candidates written behind the committed slots.

    start: i32[B], the first slot of the window. positions: i32[B, S], the window's logical positions.
    """

    written: KVState
    start: jax.Array
    positions: jax.Array


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax attention with ``num_heads`` query and ``num_kv_heads`` key/value heads.

    rope: rotary embedding of queries and keys, or None. query_norm, key_norm: per-head norms applied before
    it. window: a token sees itself and the ``window - 1`` positions before it; None sees all. softcap: see
    `Scores`. scale: multiplies the logits, ``head_dim ** -0.5`` if None. sinks: one learned logit per head
    in the softmax's denominator. qkv_bias, out_bias: whether the projections have biases.
    """

    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: Rope | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    window: int | None = None
    softcap: float | None = None
    scale: float | None = None
    sinks: bool = False
    qkv_bias: bool = False
    out_bias: bool = False

    def __post_init__(self) -> None:
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}: "
                "each key/value head serves a whole number of query heads"
            )
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1, or None for full attention")
        if self.softcap is not None and self.softcap <= 0:
            raise ValueError(f"softcap={self.softcap} must be positive, or None")

    def spec(self) -> ParamTree:
        d, n, k, h = self.d_model, self.num_heads, self.num_kv_heads, self.head_dim
        tree: ParamTree = {
            "w_q": Param((d, n, h), ("embed", "heads", "head_dim"), FanIn(d)),
            "w_k": Param((d, k, h), ("embed", "kv_heads", "head_dim"), FanIn(d)),
            "w_v": Param((d, k, h), ("embed", "kv_heads", "head_dim"), FanIn(d)),
            "w_o": Param((n, h, d), ("heads", "head_dim", "embed"), FanIn(n * h)),
        }
        if self.qkv_bias:
            tree["b_q"] = Param((n, h), ("heads", "head_dim"), ZEROS)
            tree["b_k"] = Param((k, h), ("kv_heads", "head_dim"), ZEROS)
            tree["b_v"] = Param((k, h), ("kv_heads", "head_dim"), ZEROS)
        if self.out_bias:
            tree["b_o"] = Param((d,), ("embed",), ZEROS)
        if self.query_norm is not None:
            tree["query_norm"] = self.query_norm.spec()
        if self.key_norm is not None:
            tree["key_norm"] = self.key_norm.spec()
        if self.sinks:
            tree["sinks"] = Param((n,), ("heads",), ZEROS)
        return tree

    def init_state(self, batch: int, capacity: int, dtype: Any) -> KVState:
        shape = (batch, self.num_kv_heads, capacity, self.head_dim)
        return KVState(
            k=jnp.zeros(shape, dtype),
            v=jnp.zeros(shape, dtype),
            positions=jnp.full((batch, capacity), EMPTY, jnp.int32),
        )

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included; 0 counts the weights alone."""
        seen = context if self.window is None else min(context, self.window)
        weights = 2 * self.d_model * self.head_dim * (2 * self.num_heads + 2 * self.num_kv_heads)
        return weights + 4 * self.num_heads * self.head_dim * seen

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        q, k, v = self._project(params, x, window)
        positions = jnp.where(window.is_valid, window.positions, EMPTY)
        k, v = (jnp.swapaxes(a, 1, 2) for a in (k, v))
        allowed = self._allowed(window, positions, jnp.zeros_like(window.start))
        out = self._attend(params, q, k, v, allowed, self._static_range(window))
        return self._output(params, out)

    def write(
        self, params: Params, x: Float[Array, "B S D"], state: KVState, window: Window
    ) -> tuple[Float[Array, "B S N H"], KVPending]:
        """Held are the window's queries."""
        slots = state.positions.shape[1]
        if window.size > slots:
            raise ValueError(f"write: a window of {window.size} tokens does not fit a cache of {slots} slots")
        q, k, v = self._project(params, x, window)
        tags = jnp.where(window.is_valid, window.positions, EMPTY)
        written = KVState(
            k=_write(state.k, jnp.swapaxes(k, 1, 2), window.start),
            v=_write(state.v, jnp.swapaxes(v, 1, 2), window.start),
            positions=_write(state.positions, tags, window.start),
        )
        return q, KVPending(written, window.start, window.positions)

    def read(
        self, params: Params, held: Float[Array, "B S N H"], pending: KVPending, window: Window
    ) -> Float[Array, "B S D"]:
        cache = pending.written
        allowed = self._allowed(window, cache.positions, window.start)
        key_range = self._range_in_use(window, cache.positions)
        return self._output(params, self._attend(params, held, cache.k, cache.v, allowed, key_range))

    def commit(
        self, pending: KVPending, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
    ) -> KVState:
        if n is None and path is None:
            return pending.written
        state, start, positions = pending.written, pending.start, pending.positions
        size = positions.shape[1]
        if path is not None:
            state = replace(
                state,
                k=_write(state.k, _take_slots(_read(state.k, start, size), path), start),
                v=_write(state.v, _take_slots(_read(state.v, start, size), path), start),
            )
            taken = jnp.take_along_axis(positions, path, axis=1)
            positions = jnp.pad(taken, ((0, 0), (0, size - path.shape[1])))
            n = jnp.full(start.shape, path.shape[1], jnp.int32) if n is None else n
        tags = jnp.where(jnp.arange(size) < jnp.asarray(n)[:, None], positions, EMPTY)
        return replace(state, positions=_write(state.positions, tags, start))

    def _project(
        self, params: Params, x: Float[Array, "B S D"], window: Window
    ) -> tuple[Float[Array, "B S N H"], Float[Array, "B S K H"], Float[Array, "B S K H"]]:
        q, k, v = (_to_heads(x, params[name]) for name in ("w_q", "w_k", "w_v"))
        if self.qkv_bias:
            q, k, v = q + params["b_q"], k + params["b_k"], v + params["b_v"]
        if self.query_norm is not None:
            q = self.query_norm(params["query_norm"], q)
        if self.key_norm is not None:
            k = self.key_norm(params["key_norm"], k)
        if self.rope is not None:
            rotations = window.rotations(self.rope)
            q, k = (apply_rope(a, rotations, self.rope.style) for a in (q, k))
        return q, k, v

    def _attend(
        self,
        params: Params,
        q: Float[Array, "B S N H"],
        k: Float[Array, "B K T H"],
        v: Float[Array, "B K T H"],
        allowed: Allowed,
        key_range: KeyRange,
    ) -> Float[Array, "B S N H"]:
        batch, size, heads, width = q.shape
        grouped = q.reshape(batch, size, self.num_kv_heads, heads // self.num_kv_heads, width)
        scale = width**-0.5 if self.scale is None else self.scale
        sinks = params["sinks"].reshape(self.num_kv_heads, -1) if self.sinks else None
        out = attend(
            jnp.transpose(grouped, (0, 2, 3, 1, 4)),
            k.astype(q.dtype),
            v.astype(q.dtype),
            allowed=allowed,
            key_range=key_range,
            scores=Scores(scale=scale, softcap=self.softcap),
            sinks=sinks,
        )
        return jnp.transpose(out, (0, 3, 1, 2, 4)).reshape(batch, size, heads, width)

    def _output(self, params: Params, out: Float[Array, "B S N H"]) -> Float[Array, "B S D"]:
        flat = out.reshape(*out.shape[:2], -1)
        y = linear(flat, params["w_o"].reshape(flat.shape[-1], self.d_model))
        return y + params["b_o"] if self.out_bias else y

    def _allowed(self, window: Window, tags: Int[Array, "B T"], start: Int[Array, "B"]) -> Allowed:
        """Which slots each window token sees, decided by the slots' positions.

        With an array mask, the slots of the window itself (from `start` on) follow the mask and all other
        slots the causal rule.
        """

        def allowed(q0: int | Array, q_size: int, k0: int | Array, k_size: int) -> Bool[Array, "B S T"]:
            keys = lax.dynamic_slice_in_dim(tags, k0, k_size, axis=1)[:, None, :]
            queries = lax.dynamic_slice_in_dim(window.positions, q0, q_size, axis=1)[:, :, None]
            seen = keys != EMPTY
            if self.window is not None:
                seen = seen & (queries - keys < self.window)
            if isinstance(window.mask, Bidirectional):
                return seen
            causal = keys <= queries
            if isinstance(window.mask, Causal):
                return seen & causal
            index = k0 + jnp.arange(k_size) - start[:, None]
            inside = (index >= 0) & (index < window.size)
            mask = jnp.broadcast_to(window.mask, (tags.shape[0], window.size, window.size))
            rows = lax.dynamic_slice_in_dim(mask, q0, q_size, axis=1)
            index = jnp.clip(index, 0, window.size - 1)[:, None, :]
            by_mask = jnp.take_along_axis(rows, jnp.broadcast_to(index, (*rows.shape[:2], k_size)), axis=2)
            return seen & jnp.where(inside[:, None, :], by_mask, causal)

        return allowed

    def _static_range(self, window: Window) -> KeyRange:
        """The keys of a whole sequence that a block of its queries can see, as Python integers."""
        size = window.size

        def key_range(q0: int, q_size: int) -> tuple[int, int]:
            if not isinstance(window.mask, Causal):
                return 0, size
            low = 0 if self.window is None else max(0, q0 - self.window + 1)
            return low, q0 + q_size

        return key_range

    def _range_in_use(self, window: Window, tags: Int[Array, "B T"]) -> KeyRange:
        """The smallest range of slots that holds every position a block of queries can see."""
        slots = jnp.arange(tags.shape[1], dtype=jnp.int32)

        def key_range(q0: int, q_size: int) -> tuple[Array, Array]:
            needed = tags != EMPTY
            queries = window.positions[:, q0 : q0 + q_size]
            if isinstance(window.mask, Causal):
                needed = needed & (tags <= queries.max(1, keepdims=True))
            if self.window is not None:
                needed = needed & (tags > queries.min(1, keepdims=True) - self.window)
            needed = needed.any(0)
            low = jnp.min(jnp.where(needed, slots, tags.shape[1]))
            return low, jnp.max(jnp.where(needed, slots + 1, 0))

        return key_range


def _to_heads(x: Float[Array, "B S D"], w: Float[Array, "D N H"]) -> Float[Array, "B S N H"]:
    return linear(x, w.reshape(w.shape[0], -1)).reshape(*x.shape[:2], *w.shape[1:])


def _write(buffer: Array, new: Array, start: Int[Array, "B"]) -> Array:
    """Writes each row's window from its start slot on; slots are axis 2 of [B, K, T, H], axis 1 of [B, T]."""
    axis = buffer.ndim // 2 - 1
    new = new.astype(buffer.dtype)
    if buffer.shape[0] == 1:
        return lax.dynamic_update_slice_in_dim(buffer, new, start[0], axis + 1)
    return jax.vmap(lambda row, part, at: lax.dynamic_update_slice_in_dim(row, part, at, axis))(
        buffer, new, start
    )


def _read(buffer: Float[Array, "B K T H"], start: Int[Array, "B"], size: int) -> Float[Array, "B K S H"]:
    return jax.vmap(lambda row, at: lax.dynamic_slice_in_dim(row, at, size, 1))(buffer, start)


def _take_slots(window: Float[Array, "B K S H"], path: Int[Array, "B P"]) -> Float[Array, "B K P H"]:
    return jnp.take_along_axis(window, path[:, None, :, None], axis=2)
