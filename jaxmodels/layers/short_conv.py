"""LFM2's gated short convolution: a mixer whose whole history is its last few inputs."""

from dataclasses import dataclass

from jaxtyping import Array, Float, Int

from jaxmodels.layers.conv import window_conv
from jaxmodels.layers.linear import linear
from jaxmodels.layers.recurrence import RecurrentPending, RecurrentState, WindowInputs, pend, settle
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree, buffer, init_state, matrix
from jaxmodels.layers.window import Window, peek

# What the input is projected to, in the order of checkpoints.
PROJECTED = ("b", "c", "x")


@dataclass(frozen=True, kw_only=True)
class ShortConv:
    """``y = out(c * conv(b * x))`` with b, c and x projected from the input.

    `bias` adds a bias to all projections and to the convolution. Source: the LFM2 blocks of transformers.

    Raises:
        ValueError: `d_model` is not positive, or `conv_width` is less than 2.
    """

    d_model: int
    conv_width: int = 3
    bias: bool = False

    def __post_init__(self) -> None:
        if self.d_model < 1:
            raise ValueError(f"d_model={self.d_model} must be at least 1")
        if self.conv_width < 2:
            raise ValueError(f"conv_width={self.conv_width} must be at least 2")

    def spec(self) -> ParamTree:
        d = self.d_model
        tree: ParamTree = {
            **{f"w_{name}": matrix((d, d), ("ssm_inner", "embed")) for name in PROJECTED},
            "conv_w": Param((self.conv_width, d), (None, "ssm_inner"), FanIn(self.conv_width)),
            "w_out": matrix((d, d), ("embed", "ssm_inner")),
        }
        if self.bias:
            tree |= {f"b_{name}": Param((d,), ("ssm_inner",), ZEROS) for name in PROJECTED}
            tree["conv_b"] = Param((d,), ("ssm_inner",), ZEROS)
            tree["b_out"] = Param((d,), ("embed",), ZEROS)
        return tree

    def state_spec(self, batch: int, capacity: int) -> RecurrentState:
        shape = (batch, self.conv_width - 1, self.d_model)
        return RecurrentState(None, conv=buffer(shape, ("batch", None, "ssm_inner")))

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token, the same for every `context`."""
        return 8 * self.d_model**2 + 2 * self.conv_width * self.d_model

    def forward(self, params: Params, x: Float[Array, "B S D"], window: Window) -> Float[Array, "B S D"]:
        return peek(self, params, x, init_state(self, x.shape[0], 0, x.dtype), window)[0]

    def write(
        self, params: Params, x: Float[Array, "B S D"], state: RecurrentState, window: Window
    ) -> tuple[Float[Array, "B S D"], RecurrentPending]:
        """Held is the gate c."""
        b, c, xs = (self._project(params, name, x) for name in PROJECTED)
        return c, pend(state, None, WindowInputs((), conv=b * xs), window)

    def read(
        self, params: Params, held: Float[Array, "B S D"], pending: RecurrentPending, window: Window
    ) -> Float[Array, "B S D"]:
        history, inputs = pending.before.conv, pending.inputs.conv
        convolved = window_conv(history, inputs, params["conv_w"], params.get("conv_b"), window)
        return self._project(params, "out", held * convolved)

    def commit(
        self,
        pending: RecurrentPending,
        n: Int[Array, "B"] | None = None,
        path: Int[Array, "B P"] | None = None,
    ) -> RecurrentState:
        return settle(pending, None, n, path)

    def _project(self, params: Params, name: str, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        y = linear(x, params[f"w_{name}"])
        return y + params[f"b_{name}"] if self.bias else y
