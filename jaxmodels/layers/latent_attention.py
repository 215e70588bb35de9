"""Multi-head latent attention: the cache holds one small latent per token, no keys and values per head."""

import math
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from flax import struct
from jaxtyping import Array, Float, Int

from jaxmodels.layers.attend import Scores, Unpack, attend
from jaxmodels.layers.kv_cache import (
    KVPending,
    allowed_by_position,
    commit_window,
    empty_slots,
    range_in_use,
    range_of_sequence,
    take_tags,
    window_tags,
    write_window,
)
from jaxmodels.layers.linear import contract, linear
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.rope import Rope, apply_rope
from jaxmodels.layers.rope_scaling import YarnScaling
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree, buffer, matrix
from jaxmodels.layers.window import Window

# Each block of queries makes the keys and values that it meets anew: the larger it is, the fewer times.
EXPANDED_QUERY_BLOCK = 1024


@struct.dataclass
class LatentState:
    """Latents by slot.

    Attributes:
        entries: [B, 1, T, R + X], each a normalised latent and, behind it, the rotated key that all heads
            share.
        positions: i32[B, T]; -1 marks an empty slot.
    """

    entries: jax.Array
    positions: jax.Array


@dataclass(frozen=True, kw_only=True)
class LatentAttention:
    """Multi-head latent attention (DeepSeek-V2, https://arxiv.org/abs/2405.04434, section 2.1).

    Keys and values of all heads come from one latent per token, ``c = norm(x @ W_down)`` of width `kv_rank`;
    a key has `key_dim` features from it and `rope_dim` more, ``r = rope(x @ W_rope)``, shared by all heads:

        logit[n, s, t] = scale * (q_n[s] . (W_uk[n] c[t]) + rope(p_n[s]) . r[t]),  value[n, t] = c[t] W_uv[n]

    Short windows are attended in the absorbed form: ``q_n . (W_uk[n] c) = (q_n W_uk[n]) . c`` moves the
    product to the queries, and ``(sum_t w c[t]) W_uv[n]`` moves the other behind the sum. What is left is
    multi-query attention with the cache's entries ``[c, r]`` as keys and the latents among them as values.
    Where a window has so many queries that making each head's keys and values costs less than they save,
    being narrower than the latent (`queries_to_expand`), they are made, block by block of the cache. A
    sequence without a cache has as many queries as keys and is always attended so.

    Attributes:
        d_model: width of input and output.
        num_heads: query heads.
        kv_rank: width of the latent of keys and values.
        key_dim: features of a head's key that come from the latent.
        rope_dim: features of the key that all heads share.
        value_dim: features of a head's value.
        latent_norm: of the latent of keys and values.
        query_rank: queries come from a latent of this width; None projects them from x.
        query_norm: of the queries' latent.
        rope: rotates the shared key and the queries' last `rope_dim` features; None leaves them as they are
            (Kimi Linear).
        scale: multiplies the logits; None stands for ``(key_dim + rope_dim) ** -0.5``, times the
            `logit_factor` of a `YarnScaling`.
        bias: whether the projections into latents and out of the heads have biases.

    Raises:
        ValueError: a size is below 1, `rope` rotates another number of features than `rope_dim`, or only one
            of `query_rank` and `query_norm` is given.
    """

    d_model: int
    num_heads: int
    kv_rank: int
    key_dim: int
    rope_dim: int
    value_dim: int
    latent_norm: Norm
    query_rank: int | None = None
    query_norm: Norm | None = None
    rope: Rope | None = None
    scale: float | None = None
    bias: bool = False

    def __post_init__(self) -> None:
        for name in ("num_heads", "kv_rank", "key_dim", "rope_dim", "value_dim"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.rope is not None and self.rope.rotary_dim != self.rope_dim:
            raise ValueError(
                f"rope: rotary_dim={self.rope.rotary_dim} must be rope_dim={self.rope_dim}: "
                "the shared key is rotated whole"
            )
        if (self.query_rank is None) != (self.query_norm is None):
            raise ValueError(
                f"query_rank={self.query_rank} and query_norm={self.query_norm}: give both or neither"
            )

    @property
    def ropes(self) -> tuple[Rope, ...]:
        """What the layer asks a window to rotate by."""
        return () if self.rope is None else (self.rope,)

    def spec(self) -> ParamTree:
        d, n, r, h, i = self.d_model, self.num_heads, self.kv_rank, self.key_dim, self.value_dim
        width = h + self.rope_dim
        tree: ParamTree = {
            "w_kv_down": matrix((r, d), ("latent", "embed")),
            "w_k_rope": matrix((self.rope_dim, d), ("head_dim", "embed")),
            "latent_norm": self.latent_norm.spec(),
            "w_uk": matrix((n, h, r), ("heads", "head_dim", "latent")),
            "w_uv": Param((n, r, i), ("heads", "latent", "head_dim"), FanIn(r), contracted=(-2,)),
            "w_o": matrix((d, n, i), ("embed", "heads", "head_dim"), inputs=2),
        }
        if self.query_rank is None or self.query_norm is None:
            tree["w_q"] = matrix((n, width, d), ("heads", "head_dim", "embed"))
        else:
            j = self.query_rank
            tree["w_q_down"] = matrix((j, d), ("latent", "embed"))
            tree["query_norm"] = self.query_norm.spec()
            tree["w_q_up"] = matrix((n, width, j), ("heads", "head_dim", "latent"))
        if self.bias:
            tree["b_kv_down"] = Param((r,), ("latent",), ZEROS)
            tree["b_k_rope"] = Param((self.rope_dim,), ("head_dim",), ZEROS)
            tree["b_o"] = Param((d,), ("embed",), ZEROS)
            if self.query_rank is not None:
                tree["b_q_down"] = Param((self.query_rank,), ("latent",), ZEROS)
        return tree

    def state_spec(self, batch: int, capacity: int) -> LatentState:
        shape = (batch, 1, capacity, self.kv_rank + self.rope_dim)
        return LatentState(
            entries=buffer(shape, ("batch", None, "slots", None)), positions=empty_slots(batch, capacity)
        )

    @property
    def queries_to_expand(self) -> float:
        """How many queries the keys and values of each head must serve to be worth making.

        Per head and key, making them takes ``kv_rank * (key_dim + value_dim)`` multiplications, and each
        query that meets them saves ``2 * kv_rank - key_dim - value_dim``; `inf` where the latent is narrow.
        """
        width = self.key_dim + self.value_dim
        saved = 2 * self.kv_rank - width
        return self.kv_rank * width / saved if saved > 0 else math.inf

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token in the absorbed form that sees `context` tokens, itself included; 0 counts the
        weights alone."""
        d, n, entry = self.d_model, self.num_heads, self.kv_rank + self.rope_dim
        width = self.key_dim + self.rope_dim
        queries = d * n * width if self.query_rank is None else self.query_rank * (d + n * width)
        heads = n * self.kv_rank * (self.key_dim + self.value_dim) + n * self.value_dim * d
        return 2 * (queries + d * entry + heads) + 2 * n * (entry + self.kv_rank) * context

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        k, v = self._keys_and_values(params, self._entries(params, x, window))
        allowed = allowed_by_position(window, window_tags(window), jnp.zeros_like(window.start), None)
        out = attend(
            self._whole_queries(params, x, window),
            k,
            v,
            allowed=allowed,
            key_range=range_of_sequence(window, None),
            scores=self._scores(),
        )
        return self._output(params, rearrange(out, "b n 1 s i -> b s n i"))

    def write(
        self, params: Params, x: Float[Array, "B S D"], state: LatentState, window: Window
    ) -> tuple[Float[Array, "B S D"], KVPending]:
        """Held is the input, from which `read` makes the queries."""
        return x, write_window(state, window, entries=self._entries(params, x, window)[:, :, None])

    def read(
        self, params: Params, held: Float[Array, "B S D"], pending: KVPending, window: Window
    ) -> Float[Array, "B S D"]:
        form = self._expanded if window.size >= self.queries_to_expand else self._absorbed
        return self._output(params, form(params, held, pending.written, window))

    def commit(
        self, pending: KVPending, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
    ) -> LatentState:
        state: LatentState = commit_window(pending, n, path)
        return state

    def limit(self, state: LatentState) -> int | None:
        return state.positions.shape[1]

    def held(
        self, state: LatentState, length: Int[Array, "B"], slots: Int[Array, "B S"]
    ) -> Int[Array, "B S"]:
        return take_tags(state.positions, slots)

    def _queries(
        self, params: Params, x: Float[Array, "B S D"], window: Window
    ) -> tuple[Float[Array, "B S N H"], Float[Array, "B S N X"]]:
        """The parts of each query that meet the latent's key and the shared key."""
        weight = params["w_q"] if self.query_rank is None else params["w_q_up"]
        if self.query_norm is not None:
            x = linear(x, params["w_q_down"])
            x = self.query_norm(params["query_norm"], x + params["b_q_down"] if self.bias else x)
        q, shared = jnp.split(linear(x, weight), [self.key_dim], axis=-1)
        return q, self._rotate(shared, window)

    def _absorbed(
        self, params: Params, x: Float[Array, "B S D"], cache: LatentState, window: Window
    ) -> Float[Array, "B S N I"]:
        """One key head for all queries: the entries are its keys, the latents among them its values."""
        q, shared = self._queries(params, x, window)
        absorbed = contract("bsnh,nhr->bsnr", q, params["w_uk"])
        queries = rearrange(jnp.concatenate([absorbed, shared], axis=-1), "b s n u -> b 1 n s u")

        def unpack(entries: Array, _: Array) -> tuple[Array, Array]:
            return entries, entries[..., : self.kv_rank]

        out = self._attend_cache(queries, cache, window, unpack, None)
        return contract("bnsr,nri->bsni", out[:, 0], params["w_uv"])

    def _expanded(
        self, params: Params, x: Float[Array, "B S D"], cache: LatentState, window: Window
    ) -> Float[Array, "B S N I"]:
        """Keys and values of each head, made of one block of the cache after the other."""

        def unpack(entries: Array, _: Array) -> tuple[Array, Array]:
            return self._keys_and_values(params, entries[:, 0])

        queries = self._whole_queries(params, x, window)
        out = self._attend_cache(queries, cache, window, unpack, EXPANDED_QUERY_BLOCK)
        return rearrange(out, "b n 1 s i -> b s n i")

    def _attend_cache(
        self,
        queries: Float[Array, "B K M S H"],
        cache: LatentState,
        window: Window,
        unpack: Unpack,
        query_block: int | None,
    ) -> Float[Array, "B K M S I"]:
        entries = cache.entries.astype(queries.dtype)
        return attend(
            queries,
            entries,
            entries,
            allowed=allowed_by_position(window, cache.positions, window.start, None),
            key_range=range_in_use(window, cache.positions, window.start, None),
            scores=self._scores(),
            unpack=unpack,
            query_block=query_block,
        )

    def _whole_queries(
        self, params: Params, x: Float[Array, "B S D"], window: Window
    ) -> Float[Array, "B N 1 S Q"]:
        """Queries for the keys of each head."""
        both = jnp.concatenate(self._queries(params, x, window), axis=-1)
        return rearrange(both, "b s n u -> b n 1 s u")

    def _keys_and_values(
        self, params: Params, entries: Float[Array, "B T E"]
    ) -> tuple[Float[Array, "B N T Q"], Float[Array, "B N T I"]]:
        """Those of each head, from what the cache keeps of the tokens."""
        latents, shared = jnp.split(entries, [self.kv_rank], axis=-1)
        k = contract("btr,nhr->bnth", latents, params["w_uk"])
        v = contract("btr,nri->bnti", latents, params["w_uv"])
        shared = jnp.broadcast_to(shared[:, None], (*k.shape[:-1], self.rope_dim))
        return jnp.concatenate([k, shared], axis=-1), v

    def _entries(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S E"]:
        """What the cache keeps of each token."""
        latent, shared = linear(x, params["w_kv_down"]), linear(x, params["w_k_rope"])
        if self.bias:
            latent, shared = latent + params["b_kv_down"], shared + params["b_k_rope"]
        latent = self.latent_norm(params["latent_norm"], latent)
        return jnp.concatenate([latent, self._rotate(shared[:, :, None], window)[:, :, 0]], axis=-1)

    def _rotate(self, x: Float[Array, "B S N X"], window: Window) -> Float[Array, "B S N X"]:
        return x if self.rope is None else apply_rope(x, window.rotation(self.rope), self.rope.style)

    def _output(self, params: Params, out: Float[Array, "B S N I"]) -> Float[Array, "B S D"]:
        y = linear(rearrange(out, "b s n i -> b s (n i)"), params["w_o"].reshape(self.d_model, -1))
        return y + params["b_o"] if self.bias else y

    def _scores(self) -> Scores:
        if self.scale is not None:
            return Scores(scale=self.scale)
        scaling = None if self.rope is None else self.rope.scaling
        factor = scaling.logit_factor if isinstance(scaling, YarnScaling) else 1.0
        return Scores(scale=factor * (self.key_dim + self.rope_dim) ** -0.5)
