"""Gated delta rule mixers: Gated DeltaNet, as in Qwen3-Next, and Kimi Delta Attention."""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.conv import window_conv
from jaxmodels.layers.delta import delta_replay
from jaxmodels.layers.linear import linear
from jaxmodels.layers.norm import GatedRMSNorm
from jaxmodels.layers.spec import FanIn, Param, Params, ParamTree, buffer, init_state, matrix
from jaxmodels.layers.ssd_mixer import InverseSoftplusLogUniform
from jaxmodels.layers.state.every_token import EVERY_TOKEN
from jaxmodels.layers.state.policy import Memory, StatePolicy
from jaxmodels.layers.state.recurrences import DeltaRecurrence
from jaxmodels.layers.window import Window, peek


@dataclass(frozen=True)
class LogUniform:
    """The logarithm of values that are uniform in ``[low, high]``."""

    low: float = 1.0
    high: float = 16.0

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        return jnp.log(jax.random.uniform(key, shape, minval=self.low, maxval=self.high)).astype(dtype)


@dataclass(frozen=True, kw_only=True)
class GatedDeltaMixer:
    """``y = out(norm(delta(q, k, v, beta, decay), gate))``, the gated delta rule of `jaxmodels.layers.delta`.

    Queries and keys [G, R] and values [N, P] pass through a causal convolution and ``silu``; queries and keys
    are then normalised to length 1, and queries divided by ``sqrt(R)``. Each of the ``G = num_key_heads``
    serves ``N / G`` consecutive value heads. ``beta = sigmoid(w_beta x)``, and the decay's logarithm is
    ``-exp(a_log) * softplus(features + dt_bias)``.

    Projections have a key head axis, and what serves its value heads behind it, so that a key head and all
    that reads it can be sharded together.

    By default the state is f32[B, N, R, P], and a window's tokens are keys f32[B, S, G, R], updates
    f32[B, S, N, P] and log_decay f32[B, S, N, 1 or R]. The convolution's inputs are queries, keys and values
    under "q", "k" and "v".

    Attributes:
        d_model: width of input and output.
        num_heads: value heads N.
        num_key_heads: G, of queries and keys.
        head_dim: features P of a value.
        key_dim: features R of a key.
        norm: over each head's values.
        conv_width: tokens that the convolution sees, the newest included.
        chunk_size: tokens of a chunk in the form for windows; results do not depend on it.
        decay_rank: None for one decay per head, whose features are a projection of x (Gated DeltaNet,
            https://arxiv.org/abs/2412.06464); else one per key channel, whose features come through a
            bottleneck of this width (Kimi Delta Attention, https://arxiv.org/abs/2510.26692).
        gate_rank: None for a gate projected from x, else the width of its bottleneck.
        cache: how the state is kept.

    Raises:
        ValueError: a size is not positive, `num_key_heads` does not divide `num_heads`, or the norm's width
            is not `head_dim`.
    """

    d_model: int
    num_heads: int
    num_key_heads: int
    head_dim: int
    key_dim: int
    norm: GatedRMSNorm
    conv_width: int = 4
    chunk_size: int = 64
    decay_rank: int | None = None
    gate_rank: int | None = None
    cache: StatePolicy = EVERY_TOKEN

    def __post_init__(self) -> None:
        for name in ("d_model", "num_heads", "head_dim", "key_dim", "chunk_size", "decay_rank", "gate_rank"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} must be at least 1")
        if self.num_key_heads < 1 or self.num_heads % self.num_key_heads:
            raise ValueError(
                f"num_key_heads={self.num_key_heads} must divide num_heads={self.num_heads}: "
                "each key head serves a whole number of value heads"
            )
        if self.conv_width < 2:
            raise ValueError(f"conv_width={self.conv_width} must be at least 2")
        if self.norm.dim != self.head_dim:
            raise ValueError(f"norm: dim={self.norm.dim} must be head_dim={self.head_dim}")

    def spec(self) -> ParamTree:
        d, g, w = self.d_model, self.num_key_heads, self.conv_width
        per_group = (g, self.num_heads // g)
        keys, values = (g, self.key_dim), (self.num_heads, self.head_dim)
        decays = () if self.decay_rank is None else (self.key_dim,)
        tree: ParamTree = {
            **_projection("q", d, None, keys),
            **_projection("k", d, None, keys),
            **_projection("v", d, None, (*per_group, self.head_dim)),
            **{
                f"conv_{name}": Param((w, *shape), (None, *axes), FanIn(w))
                for name, shape, axes in self._convolved
            },
            **_projection("beta", d, None, per_group),
            **_projection("decay", d, self.decay_rank, (*per_group, *decays)),
            **_projection("gate", d, self.gate_rank, (*per_group, self.head_dim)),
        }
        shape = (self.num_heads, *decays)
        tree["dt_bias"] = Param(shape, ("heads", None)[: len(shape)], InverseSoftplusLogUniform(), "float32")
        tree["a_log"] = Param((self.num_heads,), ("heads",), LogUniform(), "float32")
        tree["norm"] = self.norm.spec()
        tree["w_o"] = matrix((d, *values), ("embed", "heads", "head_dim"), inputs=2)
        return tree

    def state_spec(self, batch: int, capacity: int) -> Any:
        conv = {
            name: buffer((batch, self.conv_width - 1, *sizes), ("batch", None, *axes))
            for name, sizes, axes in self._convolved
        }
        return self.cache.state_spec(self._memory, batch, conv)

    @property
    def _memory(self) -> Memory:
        return Memory(
            heads=self.num_heads,
            groups=self.num_key_heads,
            key_dim=self.key_dim,
            value_dim=self.head_dim,
            decays=1 if self.decay_rank is None else self.key_dim,
            axes=("heads", "kv_heads", None, "head_dim"),
            flops_per_entry=7,
        )

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token as a step of the recurrence, whatever its history; 0 counts the weights alone.

        A state entry costs seven: two multiply-adds for what the key and the query read, decay, and a
        multiply-add for the update.
        """
        multiplied = (p for name, p in self.spec().items() if name.startswith(("w_", "conv_")))
        weights = sum(2 * math.prod(p.shape) for p in multiplied if isinstance(p, Param))
        return weights + (self.cache.flops_per_token(self._memory) if context > 0 else 0)

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        plain = replace(self, cache=EVERY_TOKEN)  # there is no history to be kept
        return peek(plain, params, x, init_state(plain, x.shape[0], 0, x.dtype), window)[0]

    def write(
        self, params: Params, x: Float[Array, "B S D"], state: Any, window: Window
    ) -> tuple[tuple[Float[Array, "B S N P"], Float[Array, "B S D"]], Any]:
        """Held are the recurrence's output and x, from which the gate is computed."""
        inputs, convolved = {}, []
        for name, shape, _ in self._convolved:
            inputs[name] = _project(params, name, x).reshape(*x.shape[:2], *shape)
            part = window_conv(state.conv[name], inputs[name], params[f"conv_{name}"], None, window)
            convolved.append(jax.nn.silu(part).astype(jnp.float32))
        q, k, v = convolved
        q, k = _unit(q) * self.key_dim**-0.5, _unit(k)
        beta, log_decay = self._gates(params, x, window)
        recurrence = DeltaRecurrence(q, k, v, beta, log_decay, self.chunk_size)
        y, pending = self.cache.write(recurrence, state, inputs, window)
        return (y, x), pending

    def read(
        self,
        params: Params,
        held: tuple[Float[Array, "B S N P"], Float[Array, "B S D"]],
        pending: Any,
        window: Window,
    ) -> Float[Array, "B S D"]:
        y, x = held
        gate = _project(params, "gate", x).reshape(y.shape)
        gated = self.norm(params["norm"], y, gate).astype(x.dtype).reshape(*x.shape[:2], -1)
        return linear(gated, params["w_o"].reshape(self.d_model, -1))

    def commit(
        self,
        pending: Any,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> Any:
        return self.cache.commit(pending, delta_replay, n, path)

    @property
    def _convolved(self) -> tuple[tuple[str, tuple[int, int], tuple[str, str]], ...]:
        """Queries, keys and values: name, shape and logical axes of what passes through the convolution."""
        keys, values = (self.num_key_heads, self.key_dim), (self.num_heads, self.head_dim)
        of_keys, of_values = ("kv_heads", "head_dim"), ("heads", "head_dim")
        return (("q", keys, of_keys), ("k", keys, of_keys), ("v", values, of_values))

    def _gates(
        self, params: Params, x: Float[Array, "B S D"], window: Window
    ) -> tuple[Float[Array, "B S N"], Float[Array, "B S N #R"]]:
        """beta and the decay's logarithm in float32; both are 0 for padding, which leaves the state alone."""
        beta = jax.nn.sigmoid(_project(params, "beta", x).astype(jnp.float32))
        dt = _project(params, "decay", x).astype(jnp.float32).reshape(*x.shape[:2], self.num_heads, -1)
        dt = jax.nn.softplus(dt + params["dt_bias"].astype(jnp.float32).reshape(self.num_heads, -1))
        log_decay = -jnp.exp(params["a_log"].astype(jnp.float32))[:, None] * dt
        valid = window.is_valid[..., None]
        return jnp.where(valid, beta, 0.0), jnp.where(valid[..., None], log_decay, 0.0)


def _unit(a: Float[Array, "... R"]) -> Float[Array, "... R"]:
    """Vectors of length 1."""
    return a * jax.lax.rsqrt(jnp.square(a).sum(-1, keepdims=True) + 1e-6)


def _projection(name: str, d_model: int, rank: int | None, shape: tuple[int, ...]) -> ParamTree:
    """The weights of ``w x`` or, with a rank, of ``w_up (w_down x)``, for each key head together."""
    axes = ("kv_heads", *(None,) * (len(shape) - 1))
    if rank is None:
        return {f"w_{name}": matrix((*shape, d_model), (*axes, "embed"))}
    return {
        f"w_{name}_down": matrix((rank, d_model), (None, "embed")),
        f"w_{name}_up": matrix((*shape, rank), (*axes, None)),
    }


def _project(params: Params, name: str, x: Float[Array, "B S D"]) -> Float[Array, "B S F"]:
    if f"w_{name}" in params:
        y = linear(x, params[f"w_{name}"])
    else:
        y = linear(linear(x, params[f"w_{name}_down"]), params[f"w_{name}_up"])
    return y.reshape(*x.shape[:2], -1)
