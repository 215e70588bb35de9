"""Griffin's recurrent block: a real-gated linear recurrent unit behind a causal convolution, beside a gate.

The unit (RG-LRU), per inner channel, with gates r and i made of its input x by block-diagonal maps:

    a_t = exp(-8 * r_t * softplus(rate))
    h_t = a_t * h_{t-1} + sqrt(1 - a_t^2) * (i_t * x_t)

At position 0 a sequence starts: there ``h_t = i_t * x_t``. Source: De et al. 2024, "Griffin"
(https://arxiv.org/abs/2402.19427), section 2.4, with the constants and the start of RecurrentGemma's code.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import struct
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.conv import window_conv
from jaxmodels.layers.linear import contract, linear
from jaxmodels.layers.linear_recurrence import keep_only, recur, recur_tree, replay
from jaxmodels.layers.mlp import activate, check_activation
from jaxmodels.layers.recurrence import RecurrentPending, RecurrentState, WindowInputs, pend, settle
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree, buffer, init_state, matrix
from jaxmodels.layers.window import Window, peek

# Griffin's constant c: how many times the gate can multiply the slowest decay.
GATE_STRENGTH = 8.0
# Tokens whose states are found at once where chunks are scanned in parallel.
CHUNK = 64
# Steepest slope of the square root in the gradient, where a decay near 1 would make it infinite.
MAX_SQRT_SLOPE = 1000.0


@struct.dataclass
class RGLRUInputs:
    """What the state depends on, both f32[B, S, I]; log_decay is minus infinity where a sequence starts."""

    u: jax.Array
    log_decay: jax.Array


def rglru_inputs(
    x: Float[Array, "B S I"],
    input_gate: Float[Array, "B S I"],
    recurrence_gate: Float[Array, "B S I"],
    rate: Float[Array, "I"],
    starts: Bool[Array, "B S"],
) -> RGLRUInputs:
    """Decays and normalised inputs from the gates' values in [0, 1], in float32."""
    x, input_gate, recurrence_gate, rate = (
        a.astype(jnp.float32) for a in (x, input_gate, recurrence_gate, rate)
    )
    starts = starts[..., None]
    log_decay = -GATE_STRENGTH * recurrence_gate * jax.nn.softplus(rate)
    # expm1 keeps the digits of 1 - a^2 where a is near 1.
    normaliser = jnp.where(starts, 1.0, bounded_sqrt(-jnp.expm1(2.0 * log_decay)))
    return RGLRUInputs(u=input_gate * x * normaliser, log_decay=jnp.where(starts, -jnp.inf, log_decay))


@jax.custom_jvp
def bounded_sqrt(x: Float[Array, "..."]) -> Float[Array, "..."]:
    """The square root; its derivative is `MAX_SQRT_SLOPE` where it would be more."""
    return jnp.sqrt(x)


@bounded_sqrt.defjvp
def _bounded_sqrt_jvp(primals: tuple[Array], tangents: tuple[Array]) -> tuple[Array, Array]:
    (x,), (tangent,) = primals, tangents
    slope = 0.5 * jax.lax.rsqrt(jnp.maximum(x, 0.25 / MAX_SQRT_SLOPE**2))
    return jnp.sqrt(x), slope * tangent


@dataclass(frozen=True)
class UniformSquaredDecay:
    """Rates of which ``a = exp(-softplus(rate))``, the decay at a gate of 1/8, has a uniform square.

    It lies in ``[low^2, high^2]``: eigenvalues uniform on a ring, as in section 2.4 of the paper.
    """

    low: float = 0.9
    high: float = 0.999

    def __call__(self, key: jax.Array, shape: tuple[int, ...], dtype: DTypeLike) -> jax.Array:
        squared = jax.random.uniform(key, shape, minval=self.low**2, maxval=self.high**2)
        return jnp.log(jnp.expm1(-0.5 * jnp.log(squared))).astype(dtype)


@dataclass(frozen=True, kw_only=True)
class RGLRUMixer:
    """Griffin's recurrent block: ``y = out(rglru(conv(x)) * activation(y))``, all projections with biases.

    x and y are two projections of the input to the inner width ``I = d_inner``. The unit's gates are
    sigmoids of `num_blocks` square maps, each on its own equal part of the channels.

    The state is f32[B, I]. A window's tokens are one `RGLRUInputs`; the convolution's inputs are [B, S, I].

    Raises:
        ValueError: `num_blocks` does not divide `d_inner`, `conv_width` is less than 2, or `activation` is
            not known.
    """

    d_model: int
    d_inner: int
    num_blocks: int
    conv_width: int = 4
    activation: str = "gelu_pytorch_tanh"

    def __post_init__(self) -> None:
        if self.num_blocks < 1 or self.d_inner % self.num_blocks:
            raise ValueError(
                f"num_blocks={self.num_blocks} must divide d_inner={self.d_inner}: "
                "each gate's block serves a whole number of channels"
            )
        if self.conv_width < 2:
            raise ValueError(f"conv_width={self.conv_width} must be at least 2")
        check_activation(self.activation)

    @property
    def block_dim(self) -> int:
        return self.d_inner // self.num_blocks

    def spec(self) -> ParamTree:
        d, inner, blocks, width = self.d_model, self.d_inner, self.num_blocks, self.block_dim
        gate = Param((blocks, width, width), ("ssm_heads", None, None), FanIn(width), contracted=(-2,))
        gate_bias = Param((blocks, width), ("ssm_heads", None), ZEROS)
        return {
            "w_x": matrix((inner, d), ("ssm_inner", "embed")),
            "b_x": Param((inner,), ("ssm_inner",), ZEROS),
            "w_y": matrix((inner, d), ("ssm_inner", "embed")),
            "b_y": Param((inner,), ("ssm_inner",), ZEROS),
            "conv_w": Param((self.conv_width, inner), (None, "ssm_inner"), FanIn(self.conv_width)),
            "conv_b": Param((inner,), ("ssm_inner",), ZEROS),
            "w_input_gate": gate,
            "b_input_gate": gate_bias,
            "w_recurrence_gate": gate,
            "b_recurrence_gate": gate_bias,
            "rate": Param((inner,), ("ssm_inner",), UniformSquaredDecay(), "float32"),
            "w_out": matrix((d, inner), ("embed", "ssm_inner")),
            "b_out": Param((d,), ("embed",), ZEROS),
        }

    def state_spec(self, batch: int, capacity: int) -> RecurrentState:
        shape = (batch, self.conv_width - 1, self.d_inner)
        return RecurrentState(
            state=buffer((batch, self.d_inner), ("batch", "ssm_inner"), "float32"),
            conv=buffer(shape, ("batch", None, "ssm_inner")),
        )

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token as a step of the recurrence, whatever its history; 0 counts the weights alone.

        A channel costs two: a multiply-add.
        """
        weights = 2 * self.d_inner * (3 * self.d_model + 2 * self.block_dim + self.conv_width)
        return weights + (2 * self.d_inner if context > 0 else 0)

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        return peek(self, params, x, init_state(self, x.shape[0], 0, x.dtype), window)[0]

    def write(
        self, params: Params, x: Float[Array, "B S D"], state: RecurrentState, window: Window
    ) -> tuple[tuple[Float[Array, "B S I"], Float[Array, "B S D"]], RecurrentPending]:
        """Held are the unit's output and the layer's input, of which `read` makes the other branch."""
        xs = linear(x, params["w_x"]) + params["b_x"]
        convolved = window_conv(state.conv, xs, params["conv_w"], params["conv_b"], window)
        tokens = rglru_inputs(
            convolved,
            self._gate(params, "input_gate", convolved),
            self._gate(params, "recurrence_gate", convolved),
            params["rate"],
            window.positions == 0,
        )
        tokens = keep_only(tokens, window.is_valid)

        y, h = recur(tokens, state.state, _expand, _read, CHUNK)
        if window.ancestors is not None:
            y = recur_tree(tokens, state.state, window.ancestors, _expand, _read)
        return (y.astype(x.dtype), x), pend(state, h, WindowInputs((tokens,), conv=xs), window)

    def read(
        self,
        params: Params,
        held: tuple[Float[Array, "B S I"], Float[Array, "B S D"]],
        pending: RecurrentPending,
        window: Window,
    ) -> Float[Array, "B S D"]:
        h, x = held
        y = activate(self.activation, linear(x, params["w_y"]) + params["b_y"])
        return linear(h * y, params["w_out"]) + params["b_out"]

    def commit(
        self,
        pending: RecurrentPending,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> RecurrentState:
        return settle(pending, lambda tokens, state, n: replay(tokens, state, n, _expand, CHUNK), n, path)

    def _gate(self, params: Params, name: str, x: Float[Array, "B S I"]) -> Float[Array, "B S I"]:
        blocks = x.reshape(*x.shape[:2], self.num_blocks, self.block_dim)
        gate = contract("bsnp,npq->bsnq", blocks, params[f"w_{name}"]) + params[f"b_{name}"]
        return jax.nn.sigmoid(gate).reshape(x.shape)


def _expand(inputs: RGLRUInputs) -> tuple[Float[Array, "... I"], Float[Array, "... I"]]:
    return jnp.exp(inputs.log_decay), inputs.u


def _read(h: Float[Array, "... I"], inputs: RGLRUInputs) -> Float[Array, "... I"]:
    return h
