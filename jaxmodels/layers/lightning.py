"""Lightning attention: linear attention with a fixed decay per head, as in MiniMax-01."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import activate, check_activation
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.recurrence import RecurrentPending, RecurrentState, WindowInputs, pend, settle
from jaxmodels.layers.spec import Params, ParamTree, buffer, init_state, matrix
from jaxmodels.layers.ssd import Tokens, ssd_replay, ssd_tree, ssd_window
from jaxmodels.layers.state.history import of_state
from jaxmodels.layers.window import Window, peek


def lightning_slope_scale(layer: int, num_layers: int) -> float:
    """MiniMax's factor of a layer's slopes: nearly 1 in the first of `num_layers`, nearly 0 in the last."""
    return 1 - layer / (num_layers - 1 + 1e-5) + 1e-5


@dataclass(frozen=True, kw_only=True)
class LightningMixer:
    """``y = out(sigmoid(gate(x)) * norm(attention))`` with a decay per head that does not depend on x.

    Queries, keys and values are ``activation(w x)``; per head,

        memory_t = exp(-slope) * memory_{t-1} + k_t (outer) v_t,    attention_t = q_t . memory_t

    which is the recurrence of `jaxmodels.layers.ssd` with a constant decay, and is computed by it. The slope
    of head n of N, counted from 1, is ``slope_scale * 2 ** (-8 n / N)``. The norm spans all heads. chunk_size
    bounds the chunks of the window form; results do not depend on it. The state is f32[B, N, H, H], and a
    window's tokens are values f32[B, S, N, H], log_decay f32[B, S, N] and keys f32[B, S, N, H]. Sources:
    https://arxiv.org/abs/2401.04658, https://arxiv.org/abs/2501.08313; details as in `transformers`.

    Raises:
        ValueError: a size is not positive, the slopes are negative, the norm's width is not
            ``num_heads * head_dim``, or the activation is unknown.
    """

    d_model: int
    num_heads: int
    head_dim: int
    norm: RMSNorm
    slope_scale: float = 1.0
    activation: str = "silu"
    chunk_size: int = 256

    def __post_init__(self) -> None:
        check_activation(self.activation)
        for name in ("d_model", "num_heads", "head_dim", "chunk_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.slope_scale < 0:
            raise ValueError(f"slope_scale={self.slope_scale} must not be negative: memories would grow")
        if self.norm.dim != self.num_heads * self.head_dim:
            raise ValueError(
                f"norm: dim={self.norm.dim} must be num_heads * head_dim = "
                f"{self.num_heads} * {self.head_dim} = {self.num_heads * self.head_dim}"
            )

    def spec(self) -> ParamTree:
        d, n, h = self.d_model, self.num_heads, self.head_dim
        tree: ParamTree = {
            f"w_{name}": matrix((n, h, d), ("heads", "head_dim", "embed")) for name in ("q", "k", "v", "gate")
        }
        tree["norm"] = self.norm.spec()
        tree["w_o"] = matrix((d, n, h), ("embed", "heads", "head_dim"), inputs=2)
        return tree

    def state_spec(self, batch: int, capacity: int) -> RecurrentState:
        shape = (batch, self.num_heads, self.head_dim, self.head_dim)
        return RecurrentState(buffer(shape, ("batch", "heads", None, "head_dim"), "float32"))

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token as a step of the recurrence, whatever its history; 0 counts the weights alone.

        A state entry costs five: decay, ``k * v``, their sum, and a multiply-add into the output.
        """
        inner = self.num_heads * self.head_dim
        return 10 * self.d_model * inner + (5 * inner * self.head_dim if context > 0 else 0)

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        return peek(self, params, x, init_state(self, x.shape[0], 0, x.dtype), window)[0]

    def write(
        self, params: Params, x: Float[Array, "B S D"], state: RecurrentState, window: Window
    ) -> tuple[tuple[Float[Array, "B S N H"], Float[Array, "B S D"]], RecurrentPending]:
        """Held are the attention's output and x, from which the gate is computed."""
        q, k, v = (
            activate(self.activation, linear(x, params[f"w_{name}"])).astype(jnp.float32) for name in "qkv"
        )
        valid = window.is_valid[..., None]
        v = jnp.where(valid[..., None], v, 0.0)
        heads = jnp.arange(1, self.num_heads + 1, dtype=jnp.float32)
        slopes = self.slope_scale * jnp.exp2(-8.0 * heads / self.num_heads)
        log_decay = jnp.where(valid, -slopes, 0.0)
        tokens = Tokens(v, jnp.ones_like(log_decay), log_decay, k, q)
        y, memory = ssd_window(tokens, None, state.state, self.chunk_size)
        if window.ancestors is not None:
            y = ssd_tree(v, log_decay, k, q, of_state(state.state), window.ancestors)
        return (y, x), pend(state, memory, WindowInputs(tokens=(v, log_decay, k)), window)

    def read(
        self,
        params: Params,
        held: tuple[Float[Array, "B S N H"], Float[Array, "B S D"]],
        pending: RecurrentPending,
        window: Window,
    ) -> Float[Array, "B S D"]:
        y, x = held
        normalised = self.norm(params["norm"], y.astype(x.dtype).reshape(*x.shape[:2], -1))
        gate = jax.nn.sigmoid(linear(x, params["w_gate"]).reshape(normalised.shape))
        return linear(gate * normalised, params["w_o"].reshape(self.d_model, -1))

    def commit(
        self,
        pending: RecurrentPending,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> RecurrentState:
        return settle(pending, ssd_replay, n, path)
