"""Position-wise feed-forward layers and their activations."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.linear import linear, scaled
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree, matrix

Activation = Callable[[jax.Array], jax.Array]


class FeedForward(Protocol):
    """Maps each token's features to as many new ones. Implementations are hashable frozen dataclasses."""

    def spec(self) -> ParamTree: ...

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token, the same for every `context`."""

    def __call__(self, params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]: ...


def gelu(x: jax.Array) -> jax.Array:
    """``x * Phi(x)`` with the exact Gaussian distribution function (https://arxiv.org/abs/1606.08415)."""
    # 1 + erf cancels for negative x; erfc keeps the digits of the tail.
    return 0.5 * x * jax.lax.erfc(-x / math.sqrt(2.0))


def gelu_tanh(x: jax.Array) -> jax.Array:
    """The tanh approximation of `gelu`."""
    return 0.5 * x * (1.0 + jnp.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x * x * x)))


def quick_gelu(x: jax.Array) -> jax.Array:
    """The sigmoid approximation of `gelu`."""
    return x * jax.nn.sigmoid(1.702 * x)


def squared_relu(x: jax.Array) -> jax.Array:
    """``max(x, 0)^2`` (https://arxiv.org/abs/2109.08668)."""
    return jnp.square(jax.nn.relu(x))


# Hugging Face names; those that share a function differ there only in how torch is called.
ACTIVATIONS: Mapping[str, Activation] = MappingProxyType(
    {
        "gelu": gelu,
        "gelu_accurate": gelu_tanh,
        "gelu_fast": gelu_tanh,
        "gelu_new": gelu_tanh,
        "gelu_python": gelu,
        "gelu_python_tanh": gelu_tanh,
        "gelu_pytorch_tanh": gelu_tanh,
        "mish": jax.nn.mish,
        "quick_gelu": quick_gelu,
        "relu": jax.nn.relu,
        "relu2": squared_relu,
        "sigmoid": jax.nn.sigmoid,
        "silu": jax.nn.silu,
        "swish": jax.nn.silu,
        "tanh": jnp.tanh,
    }
)


def activate(name: str, x: Float[Array, "..."]) -> Float[Array, "..."]:
    """Applies the activation that Hugging Face configurations call `name`, in float32, keeping ``x.dtype``.

    Raises:
        ValueError: `name` is not in `ACTIVATIONS`.
    """
    check_activation(name)
    return ACTIVATIONS[name](x.astype(jnp.float32)).astype(x.dtype)


def check_activation(name: str) -> None:
    """Raises ValueError, listing the known names, unless `name` is in `ACTIVATIONS`."""
    if name not in ACTIVATIONS:
        raise ValueError(f"activation {name!r} is not known; known are {', '.join(sorted(ACTIVATIONS))}")


@dataclass(frozen=True, kw_only=True)
class GatedMLP:
    """``down(activation(gate(x)) * up(x))``, the gated linear unit of https://arxiv.org/abs/2002.05202.

    `bias` adds a bias to each of the three projections. `gate_scale` multiplies what the activation is given,
    `out_scale` the result. `adapter_rank` is that of what is added to the weights of gate and up,
    ``w + b @ a`` with one `a` for both; None for nothing.

    Raises:
        ValueError: `activation` is not in `ACTIVATIONS`.
    """

    d_model: int
    d_ff: int
    activation: str = "silu"
    bias: bool = False
    gate_scale: float = 1.0
    out_scale: float = 1.0
    adapter_rank: int | None = None

    def __post_init__(self) -> None:
        check_activation(self.activation)

    def spec(self) -> ParamTree:
        tree: ParamTree = {
            **_projection("gate", self.d_ff, self.d_model, ("mlp", "embed"), self.bias),
            **_projection("up", self.d_ff, self.d_model, ("mlp", "embed"), self.bias),
            **_projection("down", self.d_model, self.d_ff, ("embed", "mlp"), self.bias),
        }
        if self.adapter_rank is not None:
            tree["adapter"] = {
                "a": Param((self.adapter_rank, self.d_model), (None, "embed"), FanIn(self.d_model)),
                "b_gate": Param((self.d_ff, self.adapter_rank), ("mlp", None), ZEROS),
                "b_up": Param((self.d_ff, self.adapter_rank), ("mlp", None), ZEROS),
            }
        return tree

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token, the same for every `context`."""
        return 6 * self.d_model * self.d_ff + 2 * (self.adapter_rank or 0) * (self.d_model + 2 * self.d_ff)

    def __call__(self, params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        gate, up = _project(params, "gate", x), _project(params, "up", x)
        if self.adapter_rank is not None:
            low = linear(x, params["adapter"]["a"])
            gate, up = (
                gate + linear(low, params["adapter"]["b_gate"]),
                up + linear(low, params["adapter"]["b_up"]),
            )
        hidden = activate(self.activation, scaled(gate, self.gate_scale)) * up
        return scaled(_project(params, "down", hidden), self.out_scale)


@dataclass(frozen=True, kw_only=True)
class MLP:
    """``down(activation(up(x)))``; `bias` adds a bias to both projections.

    Raises:
        ValueError: `activation` is not in `ACTIVATIONS`.
    """

    d_model: int
    d_ff: int
    activation: str = "gelu"
    bias: bool = True

    def __post_init__(self) -> None:
        check_activation(self.activation)

    def spec(self) -> ParamTree:
        return {
            **_projection("up", self.d_ff, self.d_model, ("mlp", "embed"), self.bias),
            **_projection("down", self.d_model, self.d_ff, ("embed", "mlp"), self.bias),
        }

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token, the same for every `context`."""
        return 4 * self.d_model * self.d_ff

    def __call__(self, params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return _project(params, "down", activate(self.activation, _project(params, "up", x)))


def _projection(name: str, fan_out: int, fan_in: int, axes: tuple[str, str], bias: bool) -> ParamTree:
    tree: ParamTree = {f"w_{name}": matrix((fan_out, fan_in), axes=axes)}
    if bias:
        tree[f"b_{name}"] = Param((fan_out,), axes=(axes[0],), init=ZEROS)
    return tree


def _project(params: Params, name: str, x: jax.Array) -> jax.Array:
    y = linear(x, params[f"w_{name}"])
    return y + params[f"b_{name}"] if f"b_{name}" in params else y
