"""Multi-head, grouped-query and multi-query attention over a cache whose slots carry their positions."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.attend import Bias, Scores
from jaxmodels.layers.cache.full import FULL_CACHE
from jaxmodels.layers.cache.policy import (
    CachePolicy,
    Heads,
    KeepsEntries,
    Projections,
    Weighing,
    attend_slots,
    rotated,
)
from jaxmodels.layers.kv_cache import allowed_by_position, range_of_sequence, window_tags
from jaxmodels.layers.linear import linear
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.query_scale import LogScale
from jaxmodels.layers.rope import Rotary
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree, matrix
from jaxmodels.layers.window import Window


@dataclass(frozen=True, kw_only=True)
class Attention:
    """Softmax attention with ``num_heads`` query and ``num_kv_heads`` key/value heads.

    Attributes:
        d_model: width of the output, and of the input unless `input_dim` is given.
        num_heads: query heads, a multiple of `num_kv_heads`.
        num_kv_heads: key/value heads.
        head_dim: width of a head.
        rope: rotary embedding of queries and keys, or None.
        query_norm, key_norm: norms applied before `rope`, to each head on its own unless `norm_across_heads`.
        value_norm: the same for values.
        keys_as_values: values are what the projection of keys gives, before `key_norm` and `rope`; they have
            no projection of their own.
        norm_across_heads: the norms treat all heads of a token as one vector.
        clip: queries, keys and values are clipped to ``-clip .. clip`` after the norms and before `rope`;
            None leaves them.
        sliding_window: a token sees itself and the ``sliding_window - 1`` positions before it; None sees all.
        chunk: positions are cut into chunks of this length, and a token sees none of an earlier chunk.
        query_scale: a factor for queries that depends on their positions.
        softcap: see `Scores`.
        scale: multiplies the logits; ``head_dim ** -0.5`` if None.
        sink_logits: whether each head has one learned logit more in the denominator of its softmax.
        output_gate: whether the heads' outputs are multiplied by ``sigmoid(x @ w_gate)``
            (https://arxiv.org/abs/2505.06708).
        qkv_bias, out_bias: whether the projections have biases; the gate's goes with the queries'.
        cache: where keys and values are kept between windows and which of them are read; `forward` is what it
            approximates.
        input_dim: width of the input where it is not that of the output.
        adapter_rank: the weights of queries, keys and values are ``w + a @ b`` each, with `a` and `b` of this
            rank; None for ``w`` alone.
    """

    d_model: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: Rotary | None = None
    query_norm: Norm | None = None
    key_norm: Norm | None = None
    value_norm: Norm | None = None
    keys_as_values: bool = False
    norm_across_heads: bool = False
    clip: float | None = None
    sliding_window: int | None = None
    chunk: int | None = None
    query_scale: LogScale | None = None
    softcap: float | None = None
    scale: float | None = None
    sink_logits: bool = False
    output_gate: bool = False
    qkv_bias: bool = False
    out_bias: bool = False
    cache: CachePolicy = FULL_CACHE
    input_dim: int | None = None
    adapter_rank: int | None = None

    def __post_init__(self) -> None:
        if self.num_kv_heads < 1 or self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"num_kv_heads={self.num_kv_heads} must divide num_heads={self.num_heads}: "
                "each key/value head serves a whole number of query heads"
            )
        if self.sliding_window is not None and self.sliding_window < 1:
            raise ValueError(
                f"sliding_window={self.sliding_window} must be at least 1, or None for full attention"
            )
        if self.chunk is not None and self.chunk < 1:
            raise ValueError(f"chunk={self.chunk} must be at least 1, or None")
        if self.chunk is not None and self.sliding_window is not None:
            raise ValueError(
                f"chunk={self.chunk} and sliding_window={self.sliding_window}: at most one of them can be set"
            )
        if self.softcap is not None and self.softcap <= 0:
            raise ValueError(f"softcap={self.softcap} must be positive, or None")
        if self.clip is not None and self.clip <= 0:
            raise ValueError(f"clip={self.clip} must be positive, or None")
        if self.norm_across_heads and self.query_norm is self.key_norm is self.value_norm is None:
            raise ValueError(
                "norm_across_heads is set without a query_norm or key_norm that it could apply to"
            )
        self.cache.check(self.heads)

    @property
    def d_in(self) -> int:
        """Width of the input."""
        return self.d_model if self.input_dim is None else self.input_dim

    @property
    def heads(self) -> Heads:
        """What the cache policy knows of the layer."""
        return Heads(
            num_heads=self.num_heads,
            num_kv_heads=self.num_kv_heads,
            head_dim=self.head_dim,
            scores=Scores(
                scale=self.head_dim**-0.5 if self.scale is None else self.scale, softcap=self.softcap
            ),
            reach=self.sliding_window if self.chunk is None else self.chunk,
            chunk=self.chunk,
            rope=self.rope,
        )

    @property
    def ropes(self) -> tuple[Rotary, ...]:
        """What the layer asks a window to rotate by."""
        return () if self.rope is None else (self.rope,)

    def spec(self) -> ParamTree:
        d, n, k, h = self.d_in, self.num_heads, self.num_kv_heads, self.head_dim
        projections = [("q", n, "heads"), ("k", k, "kv_heads"), ("v", k, "kv_heads")]
        if self.keys_as_values:
            projections.pop()
        tree: ParamTree = {
            **{
                f"w_{x}": matrix((heads, h, d), (axis, "head_dim", "embed")) for x, heads, axis in projections
            },
            "w_o": matrix((self.d_model, n, h), ("embed", "heads", "head_dim"), inputs=2),
        }
        if self.adapter_rank is not None:
            r = self.adapter_rank
            tree["adapter"] = {
                name: part
                for x, heads, axis in projections
                for name, part in (
                    (f"a_{x}", Param((r, d), (None, "embed"), FanIn(d))),
                    (f"b_{x}", Param((heads, h, r), (axis, "head_dim", None), ZEROS)),
                )
            }
        if self.qkv_bias:
            tree |= {f"b_{x}": Param((heads, h), (axis, "head_dim"), ZEROS) for x, heads, axis in projections}
        if self.output_gate:
            tree["w_gate"] = matrix((n, h, d), ("heads", "head_dim", "embed"))
            if self.qkv_bias:
                tree["b_gate"] = Param((n, h), ("heads", "head_dim"), ZEROS)
        if self.out_bias:
            tree["b_o"] = Param((self.d_model,), ("embed",), ZEROS)
        for name in ("query_norm", "key_norm", "value_norm"):
            if getattr(self, name) is not None:
                tree[name] = getattr(self, name).spec()
        if self.sink_logits:
            tree["sink_logits"] = Param((n,), ("heads",), ZEROS)
        return tree

    def state_spec(self, batch: int, capacity: int) -> Any:
        return self.cache.state_spec(self.heads, batch, capacity)

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token that sees `context` tokens, itself included; 0 counts the weights alone."""
        seen = self.cache.keys_read(self.heads, context) if context else 0
        kinds = 1 if self.keys_as_values else 2
        inputs = (2 if self.output_gate else 1) * self.num_heads + kinds * self.num_kv_heads
        weights = 2 * self.head_dim * (self.d_in * inputs + self.d_model * self.num_heads)
        if self.adapter_rank is not None:
            heads = self.num_heads + kinds * self.num_kv_heads
            weights += 2 * self.adapter_rank * ((1 + kinds) * self.d_in + self.head_dim * heads)
        return weights + round(4 * self.num_heads * self.head_dim * seen)

    def forward(
        self, params: Params, x: Float[Array, "B S I"], window: Window, bias: Bias | None = None
    ) -> Float[Array, "B S D"]:
        """See `SequenceMixer`. `bias` is added to the logits, that of relative positions for instance."""
        new = rotated(self.heads, self.project(params, x, window), window)
        start = jnp.zeros_like(window.start)
        out = attend_slots(
            self.heads,
            new.q,
            *(jnp.swapaxes(a, 1, 2) for a in (new.k, new.v)),
            allowed=allowed_by_position(
                window, window_tags(window), start, self.heads.reach, chunk=self.chunk
            ),
            key_range=range_of_sequence(window, self.heads.reach, self.chunk),
            bias=bias,
            sink_logits=new.sink_logits,
        )
        return self.output(params, out, self._gate(params, x))

    def write(self, params: Params, x: Float[Array, "B S D"], state: Any, window: Window) -> tuple[Any, Any]:
        """Held are what the cache policy reads with, and the output gates."""
        held, pending = self.cache.write(self.heads, self.project(params, x, window), state, window)
        return (held, self._gate(params, x)), pending

    def read(self, params: Params, held: Any, pending: Any, window: Window) -> Float[Array, "B S D"]:
        queries, gate = held
        return self.output(params, self.cache.read(self.heads, queries, pending, window), gate)

    def attention_weights(
        self, params: Params, x: Float[Array, "B S I"], pending: Any, window: Window
    ) -> Float[Array, "B S T"]:
        """What the tokens of a window that was written weigh each slot of the cache with, f32, the mean over
        heads; 0 for slots that they do not see. A learned sink's share belongs to no slot.

        Raises ValueError where the cache policy reads no single slots.
        """
        if not isinstance(self.cache, Weighing):
            raise ValueError(
                f"attention_weights: the cache policy {type(self.cache).__name__} does not say how it weighs "
                "single slots; FullCache does"
            )
        held = rotated(self.heads, self.project(params, x, window), window)
        return self.cache.weights(self.heads, held, pending, window)

    def commit(
        self, pending: Any, n: Int[Array, "B"] | None = None, path: Int[Array, "B P"] | None = None
    ) -> Any:
        return self.cache.commit(self.heads, pending, n, path)

    def limit(self, state: Any) -> int | None:
        return self.cache.limit(self.heads, state)

    def held(self, state: Any, length: Int[Array, "B"], slots: Int[Array, "B S"]) -> Int[Array, "B S"]:
        """See `Refreshable`. Raises ValueError where the cache policy evicts entries or sums them up."""
        if not isinstance(self.cache, KeepsEntries):
            raise ValueError(
                f"refresh: the cache policy {type(self.cache).__name__} evicts tokens or keeps sums over "
                "several, so that no entry can be recomputed by itself; FullCache, RingCache and S2O can"
            )
        return self.cache.held(self.heads, state, length, slots)

    def queries(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S N H"]:
        """The window's queries, normalised and clipped, not rotated yet."""
        q = self._normalised(params, "query_norm", self._heads(params, "q", x))
        if self.query_scale is not None:
            q = (q * self.query_scale(window.positions)[..., None, None]).astype(q.dtype)
        return q

    def keys_and_values(
        self, params: Params, x: Float[Array, "B S D"]
    ) -> tuple[Float[Array, "B S K H"], Float[Array, "B S K H"]]:
        """Keys and values, normalised and clipped, the keys not rotated yet."""
        k = self._heads(params, "k", x)
        v = k if self.keys_as_values else self._heads(params, "v", x)
        return self._normalised(params, "key_norm", k), self._normalised(params, "value_norm", v)

    def project(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Projections:
        """A window's heads, not rotated yet."""
        sink_logits = params["sink_logits"].reshape(self.num_kv_heads, -1) if self.sink_logits else None
        return Projections(self.queries(params, x, window), *self.keys_and_values(params, x), sink_logits)

    def _heads(self, params: Params, name: str, x: Float[Array, "B S D"]) -> Float[Array, "B S N H"]:
        """The projection `name`: "q", "k" or "v"."""
        heads = linear(x, params[f"w_{name}"])
        if self.adapter_rank is not None:
            adapter = params["adapter"]
            heads = heads + linear(linear(x, adapter[f"a_{name}"]), adapter[f"b_{name}"])
        return heads + params[f"b_{name}"] if self.qkv_bias else heads

    def _normalised(
        self, params: Params, name: str, heads: Float[Array, "B S N H"]
    ) -> Float[Array, "B S N H"]:
        """The heads behind the norm `name`, if the layer has it, and clipped."""
        norm: Norm | None = getattr(self, name)
        if norm is not None:
            flat = heads.reshape(*heads.shape[:2], -1) if self.norm_across_heads else heads
            heads = norm(params[name], flat).reshape(heads.shape)
        return heads if self.clip is None else jnp.clip(heads, -self.clip, self.clip)

    def _gate(self, params: Params, x: Float[Array, "B S D"]) -> Float[Array, "B S N H"] | None:
        if not self.output_gate:
            return None
        gate = linear(x, params["w_gate"])
        return jax.nn.sigmoid(gate + params["b_gate"] if self.qkv_bias else gate)

    def output(
        self, params: Params, out: Float[Array, "B S N H"], gate: Float[Array, "B S N H"] | None
    ) -> Float[Array, "B S D"]:
        """The sum over heads of what they found, each through its part of the output projection."""
        flat = (out if gate is None else out * gate).reshape(*out.shape[:2], -1)
        y = linear(flat, params["w_o"].reshape(self.d_model, -1))
        return y + params["b_o"] if self.out_bias else y
