"""Stacks of expert feed-forward layers, ``[E, in, out]`` per projection, and how rows find their expert's."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int

from jaxmodels.layers.backends import ByBackend
from jaxmodels.layers.grouped_matmul import grouped_matmul, over_groups, row_product
from jaxmodels.layers.host_memory import in_host_memory
from jaxmodels.layers.linear import contract, on_tpu, product
from jaxmodels.layers.mlp import activate, check_activation
from jaxmodels.layers.quantized.array import QuantizedArray
from jaxmodels.layers.quantized.packed import PackedStack, unpacked
from jaxmodels.layers.quantized.products import quantized_product
from jaxmodels.layers.slotted import SlottedStack
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree


class Rows(Protocol):
    """An arrangement of rows by expert: how they are multiplied with, and shifted by, their expert's own."""

    def matmul(self, x: Array, w: Float[Array, "E D F"]) -> Array: ...

    def bias(self, b: Float[Array, "E F"]) -> Array:
        """What is added to each row, in a shape that broadcasts against them."""


@dataclass(frozen=True)
class Sorted:
    """Rows ``[P, D]`` sorted by expert.

    Attributes:
        experts: each row's, E for rows of none.
        sizes: rows per expert.
    """

    experts: Int[Array, "P"]
    sizes: Int[Array, "E"]

    def matmul(self, x: Float[Array, "P D"], w: Float[Array, "E D F"]) -> Float[Array, "P F"]:
        return grouped_matmul(x, w, self.sizes)

    def bias(self, b: Float[Array, "E F"]) -> Float[Array, "P F"]:
        return b.at[self.experts].get(mode="clip")


@dataclass(frozen=True)
class OfOne:
    """Rows ``[t, D]`` of one expert, with its own parameters."""

    def matmul(self, x: Float[Array, "t D"], w: Float[Array, "D F"]) -> Float[Array, "t F"]:
        held = unpacked(w) if isinstance(w, PackedStack) else w
        if isinstance(held, QuantizedArray):
            return quantized_product(_product_of_one, x, held.mT, None)
        return row_product(held, x)

    def bias(self, b: Float[Array, "F"]) -> Float[Array, "F"]:
        return b


def _product_of_one(x: Float[Array, "t D"], w: Float[Array, "F D"], dtype: DTypeLike) -> Float[Array, "t F"]:
    def on_cpu(x: Array, w: Array, dtype: DTypeLike) -> Array:
        return row_product(w.mT.astype(dtype), x.astype(dtype))

    y: Array = ByBackend(portable=product, cpu=on_cpu, tpu=on_tpu).given(dtype=dtype)(x, w)
    return y


@dataclass(frozen=True)
class Stacked:
    """Rows ``[..., E, C, D]``: as many for every expert."""

    def matmul(self, x: Float[Array, "... E C D"], w: Float[Array, "E D F"]) -> Float[Array, "... E C F"]:
        return contract("...ecd,edf->...ecf", x, w)

    def bias(self, b: Float[Array, "E F"]) -> Float[Array, "E 1 F"]:
        return b[:, None]


class Experts(Protocol):
    """A stack of feed-forward layers of one shape. Implementations are hashable frozen dataclasses.

    A row's output is ``hidden(row) @ w_down``, plus ``b_down`` if there is one.
    """

    @property
    def num_experts(self) -> int: ...
    @property
    def d_model(self) -> int: ...
    @property
    def d_ff(self) -> int: ...
    @property
    def flops_per_row(self) -> int: ...

    def spec(self) -> ParamTree: ...

    def hidden(self, params: Params, x: Float[Array, "... D"], rows: Rows) -> Float[Array, "... F"]:
        """The activated hidden features of rows in the arrangement `rows`."""


def expert_outputs(
    experts: Experts, params: Params, x: Float[Array, "... D"], rows: Rows
) -> Float[Array, "... D"]:
    """Each row through its expert."""
    return project(params, "down", experts.hidden(params, x, rows), rows)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def sorted_outputs(
    experts: Experts,
    params: Params,
    x: Float[Array, "P D"],
    row_experts: Int[Array, "P"],
    sizes: Int[Array, "E"],
) -> Float[Array, "P D"]:
    """`expert_outputs` of `Sorted` rows; rows of no expert give 0 or a bias, and nobody reads them.

    On CPU one loop takes each expert once, through all of its products. Where the result is differentiated,
    and elsewhere, each projection is one `grouped_matmul`. Experts in few bits are taken one by one on all
    backends: a grouped product would write all of them out. So are experts in host memory, of which no others
    are fetched than those that have rows, and experts of which some are in slots.
    """

    def one_by_one(params: Params, x: Array, row_experts: Array, sizes: Array) -> Array:
        return over_groups(lambda mine, rows: expert_outputs(experts, mine, rows, OfOne()), params, x, sizes)

    def together(params: Params, x: Array, row_experts: Array, sizes: Array) -> Array:
        return expert_outputs(experts, params, x, Sorted(row_experts, sizes))

    if in_host_memory(params) or any(isinstance(leaf, SlottedStack) for leaf in params.values()):
        return one_by_one(params, x, row_experts, sizes)
    quantized = any(isinstance(leaf, QuantizedArray) for leaf in params.values())
    form = ByBackend(portable=one_by_one if quantized else together, cpu=one_by_one)
    y: Array = form(params, x, row_experts, sizes)
    return y


def _forward(
    experts: Experts, params: Params, x: Array, row_experts: Array, sizes: Array
) -> tuple[Array, Callable[[Array], tuple[Params, Array]]]:
    return jax.vjp(lambda p, x: expert_outputs(experts, p, x, Sorted(row_experts, sizes)), params, x)


def _backward(
    experts: Experts, pullback: Callable[[Array], tuple[Params, Array]], g: Array
) -> tuple[Params, Array, None, None]:
    return *pullback(g), None, None


sorted_outputs.defvjp(_forward, _backward)


@dataclass(frozen=True, kw_only=True)
class GatedExperts:
    """``(activation(x @ w_gate) * (x @ w_up)) @ w_down`` per expert; `bias` adds one to each projection.

    Raises:
        ValueError: `activation` is not known.
    """

    num_experts: int
    d_model: int
    d_ff: int
    activation: str = "silu"
    bias: bool = False

    def __post_init__(self) -> None:
        check_activation(self.activation)

    @property
    def flops_per_row(self) -> int:
        return 6 * self.d_model * self.d_ff

    def spec(self) -> ParamTree:
        return expert_spec(self, {"gate": self.d_ff, "up": self.d_ff}, self.bias)

    def hidden(self, params: Params, x: Float[Array, "... D"], rows: Rows) -> Float[Array, "... F"]:
        return activate(self.activation, project(params, "gate", x, rows)) * project(params, "up", x, rows)


@dataclass(frozen=True, kw_only=True)
class ClampedGatedExperts:
    """``(g * sigmoid(alpha * g) * (u + 1)) @ w_down`` per expert, the feed-forward of gpt-oss.

    g is every other feature of ``x @ w_gate_up + b_gate_up`` from the first on, capped at `limit`; u the
    features between them, kept within ``-limit .. limit``.
    """

    activation: ClassVar[str] = "silu"  # the name that configurations give it

    num_experts: int
    d_model: int
    d_ff: int
    alpha: float = 1.702
    limit: float = 7.0
    bias: bool = True

    @property
    def flops_per_row(self) -> int:
        return 6 * self.d_model * self.d_ff

    def spec(self) -> ParamTree:
        return expert_spec(self, {"gate_up": 2 * self.d_ff}, self.bias)

    def hidden(self, params: Params, x: Float[Array, "... D"], rows: Rows) -> Float[Array, "... F"]:
        both = project(params, "gate_up", x, rows).astype(jnp.float32)
        gate = jnp.minimum(both[..., ::2], self.limit)
        up = jnp.clip(both[..., 1::2], -self.limit, self.limit)
        return (gate * jax.nn.sigmoid(self.alpha * gate) * (up + 1.0)).astype(x.dtype)


@dataclass(frozen=True, kw_only=True)
class PlainExperts:
    """``activation(x @ w_up) @ w_down`` per expert; `bias` adds one to both projections.

    Raises:
        ValueError: `activation` is not known.
    """

    num_experts: int
    d_model: int
    d_ff: int
    activation: str = "gelu"
    bias: bool = False

    def __post_init__(self) -> None:
        check_activation(self.activation)

    @property
    def flops_per_row(self) -> int:
        return 4 * self.d_model * self.d_ff

    def spec(self) -> ParamTree:
        return expert_spec(self, {"up": self.d_ff}, self.bias)

    def hidden(self, params: Params, x: Float[Array, "... D"], rows: Rows) -> Float[Array, "... F"]:
        return activate(self.activation, project(params, "up", x, rows))


def project(params: Params, name: str, x: Float[Array, "... D"], rows: Rows) -> Float[Array, "... F"]:
    """``x @ w_<name>``, plus ``b_<name>`` if there is one, each row with its expert's."""
    y = rows.matmul(x, params[f"w_{name}"])
    return y + rows.bias(params[f"b_{name}"]) if f"b_{name}" in params else y


def expert_spec(experts: Experts, widths: Mapping[str, int], bias: bool) -> ParamTree:
    """The parameters of a stack whose projections from the model's features have these names and widths."""
    count, d_model, d_ff = experts.num_experts, experts.d_model, experts.d_ff
    if min(count, d_model, d_ff) < 1:
        raise ValueError(
            f"{type(experts).__name__}: num_experts={count}, d_model={d_model} and d_ff={d_ff} must be at "
            "least 1"
        )
    tree: ParamTree = {}
    for name, fan_in, fan_out, axes in (
        *((name, d_model, width, ("embed", "mlp")) for name, width in widths.items()),
        ("down", d_ff, d_model, ("mlp", "embed")),
    ):
        tree[f"w_{name}"] = Param(
            (count, fan_in, fan_out), ("experts", *axes), FanIn(fan_in), contracted=(-2,)
        )
        if bias:
            tree[f"b_{name}"] = Param((count, fan_out), ("experts", axes[1]), ZEROS)
    return tree
