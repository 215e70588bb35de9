"""The Mamba-2 mixer: projections, causal convolution, state space duality, gated norm."""

import math
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.conv import window_conv
from jaxmodels.layers.linear import linear, scaled
from jaxmodels.layers.norm import GatedRMSNorm
from jaxmodels.layers.spec import (
    ONES,
    ZEROS,
    FanIn,
    Normal,
    Param,
    Params,
    ParamTree,
    buffer,
    init_state,
    matrix,
)
from jaxmodels.layers.ssd import Tokens, ssd_matrix, ssd_replay
from jaxmodels.layers.state.every_token import EVERY_TOKEN
from jaxmodels.layers.state.policy import Memory, StatePolicy
from jaxmodels.layers.state.recurrences import SSDRecurrence
from jaxmodels.layers.window import Window, peek

# What the input is projected to, in the order of checkpoints, and what of it is convolved. B and C are thin
# and have the same axes: as two slices of one part they take half as many kernels.
PROJECTED = ("z", "x", "bc", "dt")
CONVOLVED = ("x", "bc")


@dataclass(frozen=True)
class LogArange:
    """``log(1..n)`` along the first dimension: the S4D-real initial decay rates."""

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        logs = jnp.log(jnp.arange(1, shape[0] + 1, dtype=jnp.float32))
        return jnp.broadcast_to(logs.reshape(-1, *(1,) * (len(shape) - 1)), shape).astype(dtype)


@dataclass(frozen=True)
class InverseSoftplusLogUniform:
    """Step-size biases whose softplus is log-uniform in ``[low, high]``."""

    low: float = 1e-3
    high: float = 1e-1

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        dt = jnp.exp(jax.random.uniform(key, shape, minval=math.log(self.low), maxval=math.log(self.high)))
        return (dt + jnp.log(-jnp.expm1(-dt))).astype(dtype)


@dataclass(frozen=True, kw_only=True)
class SSDMixer:
    """Mamba-2's mixer (Dao and Gu 2024): y = out(norm(ssd(conv(x, B, C), dt), gate)).

    The input is projected to the gate z [I], to x [I] and to B and C [2, G, R], which pass through the
    convolution and ``silu``, and to dt [N], with inner width ``I = num_heads * head_dim``. Each has weights
    of its own, so that heads and groups can be sharded. `norm` None gates without normalising. The step size
    is ``clip(softplus(dt + dt_bias), *dt_limit)``. `chunk_size` bounds the chunks of the window form; results
    do not depend on it. `input_scales` multiply z, x, B, C and dt as they leave their projections. `cache`
    says how the state is kept.

    By default the state is f32[B, N, R, P], and a window's tokens are ``u = dt * x``, f32[B, S, N, P],
    ``dt * A``, f32[B, S, N], and B, f32[B, S, G, R]. The convolution's inputs are x under "x", B and C under
    "bc".
    """

    d_model: int
    num_heads: int
    head_dim: int
    state_dim: int
    num_groups: int = 1
    conv_width: int = 4
    chunk_size: int = 256
    dt_limit: tuple[float, float] = (0.0, math.inf)
    projection_bias: bool = False
    conv_bias: bool = True
    norm: GatedRMSNorm | None = None
    input_scales: tuple[float, float, float, float, float] = (1.0, 1.0, 1.0, 1.0, 1.0)
    cache: StatePolicy = EVERY_TOKEN

    def __post_init__(self) -> None:
        if self.num_groups < 1 or self.num_heads % self.num_groups:
            raise ValueError(
                f"num_groups={self.num_groups} must divide num_heads={self.num_heads}: "
                "each group's B and C serve a whole number of heads"
            )
        if self.conv_width < 2:
            raise ValueError(f"conv_width={self.conv_width} must be at least 2")
        if self.chunk_size < 1:
            raise ValueError(f"chunk_size={self.chunk_size} must be at least 1")
        if not 0 <= self.dt_limit[0] <= self.dt_limit[1]:
            raise ValueError(f"dt_limit={self.dt_limit} must be (low, high) with 0 <= low <= high")
        if self.norm is not None and self.norm.dim != self.d_inner:
            raise ValueError(
                f"norm: dim={self.norm.dim} must be num_heads * head_dim = "
                f"{self.num_heads} * {self.head_dim} = {self.d_inner}"
            )

    @property
    def d_inner(self) -> int:
        return self.num_heads * self.head_dim

    @property
    def d_conv(self) -> int:
        """Channels that pass through the convolution: x, B and C."""
        return self.d_inner + 2 * self.num_groups * self.state_dim

    def spec(self) -> ParamTree:
        d, w = self.d_model, self.conv_width
        projected = {name: self._channels(name) for name in PROJECTED}
        tree: ParamTree = {
            **{f"w_{name}": matrix((*n, d), (*a, "embed")) for name, (n, a) in projected.items()},
            **{
                f"conv_{name}": Param((w, *projected[name][0]), (None, *projected[name][1]), FanIn(w))
                for name in CONVOLVED
            },
            "dt_bias": Param((self.num_heads,), ("ssm_heads",), InverseSoftplusLogUniform(), "float32"),
            "a_log": Param((self.num_heads,), ("ssm_heads",), LogArange(), "float32"),
            "d_skip": Param((self.num_heads,), ("ssm_heads",), ONES, "float32"),
            "w_out": matrix((self.d_model, self.d_inner), ("embed", "ssm_inner")),
        }
        if self.conv_bias:
            tree |= {f"conv_bias_{name}": Param(*projected[name], ZEROS) for name in CONVOLVED}
        if self.norm is not None:
            tree["norm"] = self.norm.spec()
        if self.projection_bias:
            tree |= {f"b_{name}": Param(*part, Normal()) for name, part in projected.items()}
            tree["b_out"] = Param((self.d_model,), ("embed",), Normal())
        return tree

    def state_spec(self, batch: int, capacity: int) -> Any:
        channels = {name: self._channels(name) for name in CONVOLVED}
        conv = {
            name: buffer((batch, self.conv_width - 1, *sizes), ("batch", None, *axes))
            for name, (sizes, axes) in channels.items()
        }
        return self.cache.state_spec(self._memory, batch, conv)

    @property
    def _memory(self) -> Memory:
        return Memory(
            heads=self.num_heads,
            groups=self.num_groups,
            key_dim=self.state_dim,
            value_dim=self.head_dim,
            axes=("ssm_heads", "ssm_groups", "ssm_state", None),
            flops_per_entry=5,
        )

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token as a step of the recurrence, whatever its history; 0 counts the weights alone.

        A state entry costs five: decay, ``u * B``, their sum, and a multiply-add into the output.
        """
        d_in = self.d_inner + self.d_conv + self.num_heads
        projections = 2 * self.d_model * d_in + 2 * self.d_inner * self.d_model
        state = self.cache.flops_per_token(self._memory)
        return projections + 2 * self.conv_width * self.d_conv + (state if context > 0 else 0)

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        plain = replace(self, cache=EVERY_TOKEN)  # there is no history to be kept
        return peek(plain, params, x, init_state(plain, x.shape[0], 0, x.dtype), window)[0]

    def write(
        self, params: Params, x: Float[Array, "B S D"], state: Any, window: Window
    ) -> tuple[tuple[Float[Array, "B S I"], Float[Array, "B S I"]], Any]:
        """Held are the recurrence's output and the gate."""
        z, inputs, dt = self._project(params, x)
        tokens = self._discretise(params, state.conv, inputs, dt, window)
        recurrence = SSDRecurrence(tokens, params["d_skip"], self.chunk_size)
        y, pending = self.cache.write(recurrence, state, inputs, window)
        return (y.reshape(*y.shape[:2], self.d_inner), z), pending

    def read(
        self,
        params: Params,
        held: tuple[Float[Array, "B S I"], Float[Array, "B S I"]],
        pending: Any,
        window: Window,
    ) -> Float[Array, "B S D"]:
        y, z = held
        gated = self.norm(params["norm"], y, z) if self.norm else y * jax.nn.silu(z.astype(jnp.float32))
        y = linear(gated.astype(z.dtype), params["w_out"])
        return y + params["b_out"] if self.projection_bias else y

    def commit(
        self,
        pending: Any,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> Any:
        return self.cache.commit(pending, ssd_replay, n, path)

    def hidden_attention(
        self, params: Params, x: Float[Array, "B S D"], window: Window
    ) -> Float[Array, "B N S S"]:
        """What each token takes from each earlier one, per head, by the recurrence alone.

        The convolved inputs times this matrix are the recurrence's output, without the skip ``D x``: entry
        (i, j) is ``C_i (product over j < k <= i of exp(dt_k A)) B_j dt_j``. Quadratic in S; for inspection.
        """
        _, inputs, dt = self._project(params, x)
        history = init_state(self, x.shape[0], 0, x.dtype).conv
        tokens = self._discretise(params, history, inputs, dt, window)
        _, log_decay, b = tokens.added()
        matrix = ssd_matrix(log_decay, b, tokens.c.astype(jnp.float32))
        return matrix * jnp.moveaxis(tokens.dt, 1, 2)[:, :, None, :]

    def _channels(self, name: str) -> tuple[tuple[int, ...], tuple[str | None, ...]]:
        """Sizes and logical axes of what the input is projected to."""
        if name in ("z", "x"):
            return (self.d_inner,), ("ssm_inner",)
        if name == "bc":
            return (2, self.num_groups, self.state_dim), (None, "ssm_groups", "ssm_state")
        return (self.num_heads,), ("ssm_heads",)

    def _project(
        self, params: Params, x: Float[Array, "B S D"]
    ) -> tuple[Float[Array, "B S I"], dict[str, Float[Array, "B S ..."]], Float[Array, "B S N"]]:
        """The gate, the convolution's inputs by name and the raw step sizes."""
        z, xs, bc, dt = (linear(x, params[f"w_{name}"]) for name in PROJECTED)
        if self.projection_bias:
            z, xs, bc, dt = (
                part + params[f"b_{name}"] for name, part in zip(PROJECTED, (z, xs, bc, dt), strict=True)
            )
        of_z, of_x, of_b, of_c, of_dt = self.input_scales
        if {of_b, of_c} != {1.0}:
            bc = bc * jnp.asarray([of_b, of_c], bc.dtype)[:, None, None]
        return scaled(z, of_z), {"x": scaled(xs, of_x), "bc": bc}, scaled(dt, of_dt)

    def _steps(self, params: Params, dt: Float[Array, "B S N"], window: Window) -> Float[Array, "B S N"]:
        """Step sizes; those of padding are 0, which leaves the state alone."""
        steps = jnp.clip(jax.nn.softplus(dt.astype(jnp.float32) + params["dt_bias"]), *self.dt_limit)
        return jnp.where(window.is_valid[..., None], steps, 0.0)

    def _discretise(
        self,
        params: Params,
        history: dict[str, Float[Array, "B H ..."]],
        inputs: dict[str, Float[Array, "B S ..."]],
        dt: Float[Array, "B S N"],
        window: Window,
    ) -> Tokens:
        """What the recurrence takes, of the convolution's inputs and the raw step sizes."""
        convolved = {}
        for name in CONVOLVED:
            weight, bias = params[f"conv_{name}"], params.get(f"conv_bias_{name}")
            part = window_conv(history[name], inputs[name], weight, bias, window)
            convolved[name] = jax.nn.silu(part)
        xs = convolved["x"].reshape(*dt.shape, self.head_dim)
        dt = self._steps(params, dt, window)
        log_decay = -jnp.exp(params["a_log"].astype(jnp.float32)) * dt
        b, c = jnp.unstack(convolved["bc"], axis=2)
        return Tokens(xs, dt, log_decay, b, c)
