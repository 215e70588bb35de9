"""Normalisation: RMSNorm, LayerNorm and the gated RMSNorm of Mamba-2.

Statistics are always taken in float32 and the result has the input's dtype.
"""

import math
from dataclasses import dataclass
from typing import Literal, Protocol

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.spec import ONES, ZEROS, Constant, Param, Params, ParamTree

GateOrder = Literal["gate_then_norm", "norm_then_gate"]
GateActivation = Literal["silu", "sigmoid"]


class Norm(Protocol):
    """Normalises the last dimension of its input. Implementations are hashable frozen dataclasses."""

    def spec(self) -> ParamTree: ...

    def __call__(self, params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]: ...


def rms_norm(
    x: Float[Array, "... D"], scale: Float[Array, "#D"], eps: float, offset: float = 0.0
) -> Float[Array, "... D"]:
    """``x / sqrt(mean(x^2) + eps) * (offset + scale)`` over the last dimension (https://arxiv.org/abs/1910.07467).

    Where the result is rounded to ``x.dtype`` follows the checkpoints' training code: with `offset` 0 (Llama
    and its descendants) the normalised value is rounded before it is scaled, else (Gemma) afterwards.
    """
    normalised = _rms_normalise(x.astype(jnp.float32), eps)
    if offset == 0.0:
        return normalised.astype(x.dtype) * scale.astype(x.dtype)
    return (normalised * (offset + scale.astype(jnp.float32))).astype(x.dtype)


def layer_norm(
    x: Float[Array, "... D"],
    scale: Float[Array, "... #D"] | None,
    bias: Float[Array, "... #D"] | None,
    eps: float,
) -> Float[Array, "... D"]:
    """``(x - mean) / sqrt(variance + eps) * scale + bias`` over the last dimension (https://arxiv.org/abs/1607.06450).

    The variance is the biased one. None leaves out the scale or the bias.
    """
    y = x.astype(jnp.float32)
    y = y - jnp.mean(y, axis=-1, keepdims=True)
    y = _rms_normalise(y, eps)
    if scale is not None:
        y = y * scale.astype(jnp.float32)
    if bias is not None:
        y = y + bias.astype(jnp.float32)
    return y.astype(x.dtype)


def gated_rms_norm(
    x: Float[Array, "... D"],
    gate: Float[Array, "... D"],
    scale: Float[Array, " D"],
    *,
    eps: float,
    num_groups: int,
    order: GateOrder,
    activation: GateActivation = "silu",
) -> Float[Array, "... D"]:
    """RMSNorm over each of `num_groups` equal groups of features, gated by ``activation(gate)`` in float32.

    "gate_then_norm" is ``norm(x * silu(gate)) * scale`` (Mamba-2, https://arxiv.org/abs/2405.21060);
    "norm_then_gate" is ``norm(x) * scale * silu(gate)``.
    """
    y = x.astype(jnp.float32)
    activated = (jax.nn.silu if activation == "silu" else jax.nn.sigmoid)(gate.astype(jnp.float32))
    if order == "gate_then_norm":
        y = _rms_normalise_groups(y * activated, num_groups, eps)
        return y.astype(x.dtype) * scale.astype(x.dtype)
    y = _rms_normalise_groups(y, num_groups, eps) * scale.astype(jnp.float32)
    return (y * activated).astype(x.dtype)


@dataclass(frozen=True, kw_only=True)
class RMSNorm:
    """`rms_norm` with a learned scale; the effective scale is ``offset + params["scale"]``, 1 at first.

    `offset` is 0 for Llama's form and 1 for Gemma's. `axis` names the normalised dimension for sharding.
    `bias` adds a learned bias.
    """

    dim: int
    eps: float = 1e-6
    axis: str | None = "embed"
    offset: float = 0.0
    bias: bool = False

    def spec(self) -> ParamTree:
        tree: ParamTree = {"scale": Param((self.dim,), axes=(self.axis,), init=Constant(1.0 - self.offset))}
        if self.bias:
            tree["bias"] = Param((self.dim,), axes=(self.axis,), init=ZEROS)
        return tree

    def __call__(self, params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        y = rms_norm(x, params["scale"], self.eps, self.offset)
        return y + params["bias"].astype(y.dtype) if self.bias else y


@dataclass(frozen=True, kw_only=True)
class WeightlessRMSNorm:
    """`rms_norm` without a scale."""

    eps: float = 1e-6

    def spec(self) -> ParamTree:
        return {}

    def __call__(self, params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        return rms_norm(x, jnp.ones((1,), x.dtype), self.eps)


@dataclass(frozen=True, kw_only=True)
class UnitNorm:
    """``x / |x|``, or ``x / eps`` where that is longer, as torch's ``normalize`` has it."""

    eps: float = 1e-12

    def spec(self) -> ParamTree:
        return {}

    def __call__(self, params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        y = x.astype(jnp.float32)
        length = jnp.sqrt(jnp.maximum(jnp.sum(jnp.square(y), axis=-1, keepdims=True), self.eps**2))
        return (y / length).astype(x.dtype)


@dataclass(frozen=True, kw_only=True)
class HeadScaledUnitNorm:
    """`UnitNorm` of each head's vector, then each head times ``min(exp(log_scale), most)``: queries of
    attention whose logits are cosines (https://arxiv.org/abs/2111.09883).

    Attributes:
        num_heads: heads, each of which learns a scale.
        start: the scale at first.
        most: no scale is larger.
    """

    num_heads: int
    start: float = 4.0
    most: float = 100.0
    eps: float = 1e-12

    def spec(self) -> ParamTree:
        return {"log_scale": Param((self.num_heads, 1), ("heads", None), Constant(math.log(self.start)))}

    def __call__(self, params: Params, x: Float[Array, "... N H"]) -> Float[Array, "... N H"]:
        scale = jnp.exp(jnp.minimum(params["log_scale"].astype(jnp.float32), math.log(self.most)))
        y: Array = UnitNorm(eps=self.eps)({}, x.astype(jnp.float32)) * scale
        return y.astype(x.dtype)


@dataclass(frozen=True, kw_only=True)
class LayerNorm:
    """`layer_norm` with a learned scale and bias, each where the field of its name says so."""

    dim: int
    eps: float = 1e-5
    scale: bool = True
    bias: bool = True
    axis: str | None = "embed"

    def spec(self) -> ParamTree:
        tree: ParamTree = {}
        if self.scale:
            tree["scale"] = Param((self.dim,), axes=(self.axis,), init=ONES)
        if self.bias:
            tree["bias"] = Param((self.dim,), axes=(self.axis,), init=ZEROS)
        return tree

    def __call__(self, params: Params, x: Float[Array, "... D"]) -> Float[Array, "... D"]:
        scale, bias = (
            params[name] if used else None for name, used in (("scale", self.scale), ("bias", self.bias))
        )
        return layer_norm(x, scale, bias, self.eps)


@dataclass(frozen=True, kw_only=True)
class GatedRMSNorm:
    """`gated_rms_norm` with a learned scale.

    Raises:
        ValueError: `dim` is not a multiple of `num_groups`, or `order` or `activation` is unknown.
    """

    dim: int
    eps: float = 1e-5
    num_groups: int = 1
    order: GateOrder = "gate_then_norm"
    axis: str | None = "ssm_inner"
    activation: GateActivation = "silu"

    def __post_init__(self) -> None:
        if self.num_groups < 1 or self.dim % self.num_groups:
            raise ValueError(f"GatedRMSNorm: num_groups must divide dim={self.dim}, got {self.num_groups}")
        if self.order not in ("gate_then_norm", "norm_then_gate"):
            raise ValueError(
                f"GatedRMSNorm: order must be 'gate_then_norm' or 'norm_then_gate', got {self.order!r}"
            )
        if self.activation not in ("silu", "sigmoid"):
            raise ValueError(f"GatedRMSNorm: activation must be 'silu' or 'sigmoid', got {self.activation!r}")

    def spec(self) -> ParamTree:
        return {"scale": Param((self.dim,), axes=(self.axis,), init=ONES)}

    def __call__(
        self, params: Params, x: Float[Array, "... D"], gate: Float[Array, "... D"]
    ) -> Float[Array, "... D"]:
        return gated_rms_norm(
            x,
            gate,
            params["scale"],
            eps=self.eps,
            num_groups=self.num_groups,
            order=self.order,
            activation=self.activation,
        )


def _rms_normalise(x: Float[Array, "... D"], eps: float) -> Float[Array, "... D"]:
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + eps)


def _rms_normalise_groups(x: Float[Array, "... D"], num_groups: int, eps: float) -> Float[Array, "... D"]:
    grouped = x.reshape(*x.shape[:-1], num_groups, x.shape[-1] // num_groups)
    return _rms_normalise(grouped, eps).reshape(x.shape)
