"""The Mamba-1 mixer: projections, causal convolution, selective scan, gate."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.layers.conv import window_conv
from jaxmodels.layers.linear import linear
from jaxmodels.layers.linear_recurrence import keep_only
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.recurrence import RecurrentPending, RecurrentState, WindowInputs, pend, settle
from jaxmodels.layers.selective_scan import (
    SelectiveInputs,
    selective_matrix,
    selective_replay,
    selective_scan,
    selective_tree,
)
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
from jaxmodels.layers.ssd_mixer import InverseSoftplusLogUniform, LogArange
from jaxmodels.layers.window import Window, peek


@dataclass(frozen=True, kw_only=True)
class MambaMixer:
    """Mamba-1's mixer (Gu and Dao 2023): ``y = out((scan(x) + d_skip * x) * silu(z))``.

    The input is projected to x [I] and the gate z [I], with inner width ``I = d_inner``; x then passes
    through the convolution and ``silu``. It is projected to the step size's features [dt_rank], B [R] and
    C [R]; each is normalised where `dt_norm`, `b_norm` or `c_norm` is given. The step size is
    ``softplus(w_dt_up features + dt_bias)``.

    The state is f32[B, R, I]. A window's tokens are one `SelectiveInputs`, its constants the rates f32[R, I];
    the convolution's inputs are [B, S, I].

    Raises:
        ValueError: a size is not positive, or a norm's width is not that of what it normalises.
    """

    d_model: int
    d_inner: int
    state_dim: int
    dt_rank: int
    conv_width: int = 4
    projection_bias: bool = False
    conv_bias: bool = True
    dt_norm: Norm | None = None
    b_norm: Norm | None = None
    c_norm: Norm | None = None

    def __post_init__(self) -> None:
        for name in ("d_model", "d_inner", "state_dim", "dt_rank"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} must be at least 1")
        if self.conv_width < 2:
            raise ValueError(f"conv_width={self.conv_width} must be at least 2")
        widths = {"dt_norm": "dt_rank", "b_norm": "state_dim", "c_norm": "state_dim"}
        for name, width in widths.items():
            dim = getattr(getattr(self, name), "dim", None)
            if dim not in (None, getattr(self, width)):
                raise ValueError(f"{name}: dim={dim} must be {width}={getattr(self, width)}")

    @property
    def d_selected(self) -> int:
        """How much is made of x: features of the step size, B and C."""
        return self.dt_rank + 2 * self.state_dim

    def spec(self) -> ParamTree:
        d, inner = self.d_model, self.d_inner
        tree: ParamTree = {
            "w_x": matrix((inner, d), ("ssm_inner", "embed")),
            "w_z": matrix((inner, d), ("ssm_inner", "embed")),
            "conv_w": Param((self.conv_width, inner), (None, "ssm_inner"), FanIn(self.conv_width)),
            "w_dt_down": matrix((self.dt_rank, inner), (None, "ssm_inner")),
            "w_bc": matrix((2, self.state_dim, inner), (None, "ssm_state", "ssm_inner")),
            "w_dt_up": matrix((inner, self.dt_rank), ("ssm_inner", None)),
            "dt_bias": Param((inner,), ("ssm_inner",), InverseSoftplusLogUniform(), "float32"),
            "a_log": Param((self.state_dim, inner), ("ssm_state", "ssm_inner"), LogArange(), "float32"),
            "d_skip": Param((inner,), ("ssm_inner",), ONES, "float32"),
            "w_out": matrix((d, inner), ("embed", "ssm_inner")),
        }
        if self.conv_bias:
            tree["conv_b"] = Param((inner,), ("ssm_inner",), ZEROS)
        for name in ("dt_norm", "b_norm", "c_norm"):
            norm: Norm | None = getattr(self, name)
            if norm is not None:
                tree[name] = norm.spec()
        if self.projection_bias:
            tree["b_x"] = Param((inner,), ("ssm_inner",), Normal())
            tree["b_z"] = Param((inner,), ("ssm_inner",), Normal())
            tree["b_out"] = Param((d,), ("embed",), Normal())
        return tree

    def state_spec(self, batch: int, capacity: int) -> RecurrentState:
        inner = self.d_inner
        return RecurrentState(
            state=buffer((batch, self.state_dim, inner), ("batch", "ssm_state", "ssm_inner"), "float32"),
            conv=buffer((batch, self.conv_width - 1, inner), ("batch", None, "ssm_inner")),
        )

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token as a step of the recurrence, whatever its history; 0 counts the weights alone.

        A state entry costs six: ``dt * A``, decay, ``u * B``, their sum, and a multiply-add into the output.
        """
        inner = self.d_inner
        projections = 2 * inner * (3 * self.d_model + self.d_selected + self.dt_rank)
        state = 6 * self.state_dim * inner
        return projections + 2 * self.conv_width * inner + (state if context > 0 else 0)

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        return peek(self, params, x, init_state(self, x.shape[0], 0, x.dtype), window)[0]

    def write(
        self, params: Params, x: Float[Array, "B S D"], state: RecurrentState, window: Window
    ) -> tuple[tuple[Float[Array, "B S I"], Float[Array, "B S I"]], RecurrentPending]:
        """Held are the scan's output and the gate."""
        xs, z = self._project(params, "x", x), self._project(params, "z", x)
        convolved = window_conv(state.conv, xs, params["conv_w"], params.get("conv_b"), window)
        convolved = jax.nn.silu(convolved)

        tokens, c = self._select(params, convolved)
        tokens = keep_only(tokens, window.is_valid)
        rates = -jnp.exp(params["a_log"].astype(jnp.float32))
        y, ssm = selective_scan(tokens, c, rates, state.state)
        if window.ancestors is not None:
            y = selective_tree(tokens, c, rates, state.state, window.ancestors)
        y = y + params["d_skip"] * convolved.astype(jnp.float32)
        return (y, z), pend(state, ssm, WindowInputs((tokens,), conv=xs), window, constants=rates)

    def read(
        self,
        params: Params,
        held: tuple[Float[Array, "B S I"], Float[Array, "B S I"]],
        pending: RecurrentPending,
        window: Window,
    ) -> Float[Array, "B S D"]:
        y, z = held
        gated = y * jax.nn.silu(z.astype(jnp.float32))
        return self._project(params, "out", gated.astype(z.dtype))

    def commit(
        self,
        pending: RecurrentPending,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> RecurrentState:
        rates = pending.constants
        return settle(pending, lambda tokens, state, n: selective_replay(tokens, rates, state, n), n, path)

    def hidden_attention(
        self, params: Params, x: Float[Array, "B S D"], window: Window
    ) -> Float[Array, "B I S S"]:
        """What each token takes from each earlier one, per channel, by the recurrence alone.

        The convolved inputs times this matrix are the scan's output, without the skip ``D x``: entry (i, j)
        is ``C_i (product over j < k <= i of exp(dt_k A)) B_j dt_j``. Quadratic in S; for inspection.
        """
        xs, history = self._project(params, "x", x), init_state(self, x.shape[0], 0, x.dtype).conv
        xs = jax.nn.silu(window_conv(history, xs, params["conv_w"], params.get("conv_b"), window))
        inputs, c = self._select(params, xs)
        inputs = keep_only(inputs, window.is_valid)
        rates = -jnp.exp(params["a_log"].astype(jnp.float32))
        matrix = selective_matrix(inputs.dt, inputs.b, c, rates)
        return matrix * jnp.moveaxis(inputs.dt, 1, 2)[:, :, None, :]

    def _project(self, params: Params, name: str, x: Float[Array, "B S D"]) -> Float[Array, "B S F"]:
        y = linear(x, params[f"w_{name}"])
        return y + params[f"b_{name}"] if self.projection_bias else y

    def _select(
        self, params: Params, xs: Float[Array, "B S I"]
    ) -> tuple[SelectiveInputs, Float[Array, "B S R"]]:
        """The scan's inputs and C, in float32."""
        b, c = jnp.unstack(linear(xs, params["w_bc"]), axis=2)
        features, b, c = (
            part if norm is None else norm(params[name], part)
            for name, norm, part in (
                ("dt_norm", self.dt_norm, linear(xs, params["w_dt_down"])),
                ("b_norm", self.b_norm, b),
                ("c_norm", self.c_norm, c),
            )
        )
        dt = jax.nn.softplus(linear(features, params["w_dt_up"]).astype(jnp.float32) + params["dt_bias"])
        u = dt * xs.astype(jnp.float32)
        return SelectiveInputs(u=u, dt=dt, b=b.astype(jnp.float32)), c.astype(jnp.float32)
