"""How tokens reach their experts and come back: policies that give the same sum, but for what they drop."""

import math
from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.layers.linear import contract
from jaxmodels.layers.moe.experts import Experts, Stacked, expert_outputs, sorted_outputs
from jaxmodels.layers.moe.routing import Routing
from jaxmodels.layers.spec import Params


class Dispatch(Protocol):
    """``y[t] = sum of weights[t, j] * expert experts[t, j](x[t])`` over the slots of each token.

    Slots whose expert is not among those of `experts` add nothing.

    Attributes:
        causal: whether a token's result depends on itself alone.
    """

    causal: ClassVar[bool]

    def __call__(
        self, experts: Experts, params: Params, x: Float[Array, "B S D"], routing: Routing
    ) -> Float[Array, "B S D"]: ...


@dataclass(frozen=True)
class Dropless:
    """Every slot is computed: rows are sorted by expert and computed expert by expert (`sorted_outputs`)."""

    causal: ClassVar[bool] = True

    def __call__(
        self, experts: Experts, params: Params, x: Float[Array, "B S D"], routing: Routing
    ) -> Float[Array, "B S D"]:
        slots = routing.experts.shape[-1]
        flat = jnp.minimum(routing.experts.reshape(-1), experts.num_experts)
        order = jnp.argsort(flat, stable=True)
        inverse = jnp.argsort(order)
        if routing.max_pairs is not None:
            order = order[: routing.max_pairs]
        filled = flat[order]
        sizes = (flat[:, None] == jnp.arange(experts.num_experts)).sum(0, dtype=jnp.int32)
        rows = x.reshape(-1, x.shape[-1])[order // slots]
        y = sorted_outputs(experts, params, rows, filled, sizes)
        return _combine(y[jnp.minimum(inverse, len(order) - 1)], flat, experts, x, routing)


DROPLESS = Dropless()


@dataclass(frozen=True)
class Capacity:
    """Each expert takes the earliest ``ceil(factor * S * k / E)`` of its slots in a row; others are dropped.

    The products have one static shape per expert, which suits experts that are spread over devices. Rows do
    not compete with each other, but what a token gets depends on how many came before it in its window.

    Raises:
        ValueError: `factor` is not positive.
    """

    factor: float = 1.25
    causal: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not self.factor > 0:
            raise ValueError(f"Capacity: factor must be positive, got {self.factor}")

    def slots_per_expert(self, size: int, slots: int, num_experts: int) -> int:
        """The most slots of a row of `size` tokens that one expert takes."""
        return min(math.ceil(self.factor * size * slots / num_experts), size * slots)

    def __call__(
        self, experts: Experts, params: Params, x: Float[Array, "B S D"], routing: Routing
    ) -> Float[Array, "B S D"]:
        size, slots = routing.experts.shape[-2:]
        capacity = self.slots_per_expert(size, slots, routing.num_experts)
        flat = jnp.minimum(routing.experts.reshape(x.shape[0], -1), experts.num_experts)

        def fill(x: Float[Array, "S D"], flat: Int[Array, "P"]) -> tuple[Array, Array]:
            order = jnp.argsort(flat, stable=True)
            starts = jnp.searchsorted(flat[order], jnp.arange(experts.num_experts + 1))
            places = starts[:-1, None] + jnp.arange(capacity)
            buffers = x[order[jnp.minimum(places, len(order) - 1)] // slots]
            return buffers, jnp.argsort(order) - starts[flat]

        buffers, rank = jax.vmap(fill)(x, flat)
        y = expert_outputs(experts, params, buffers, Stacked())
        expert = jnp.minimum(flat, experts.num_experts - 1)
        rows = jnp.arange(x.shape[0])[:, None]
        taken = y[rows, expert, jnp.minimum(rank, capacity - 1)]
        kept = jnp.where(rank < capacity, flat, experts.num_experts)
        return _combine(taken, kept.reshape(-1), experts, x, routing)


@dataclass(frozen=True)
class Dense:
    """Every expert computes every token and weights of 0 drop out: for routers that choose most of them."""

    causal: ClassVar[bool] = True

    def __call__(
        self, experts: Experts, params: Params, x: Float[Array, "B S D"], routing: Routing
    ) -> Float[Array, "B S D"]:
        rows = x.reshape(1, -1, x.shape[-1])
        rows = jnp.broadcast_to(rows, (experts.num_experts, *rows.shape[1:]))
        hidden = experts.hidden(params, rows, Stacked())
        weights = routing.dense_weights()[..., : experts.num_experts].reshape(-1, experts.num_experts)
        weighted = hidden * weights.T[..., None].astype(hidden.dtype)
        y = contract("etf,efd->td", weighted, params["w_down"], jnp.float32)
        if "b_down" in params:
            y = y + weights @ params["b_down"].astype(jnp.float32)
        return y.astype(x.dtype).reshape(x.shape)


@dataclass(frozen=True)
class DenseAbove:
    """`Dropless` for windows of up to `tokens` tokens in all, `Dense` for larger ones.

    For routers that choose a different number of experts for each token: few tokens touch few experts, many
    touch all of them.
    """

    tokens: int = 8
    causal: ClassVar[bool] = True

    def __call__(
        self, experts: Experts, params: Params, x: Float[Array, "B S D"], routing: Routing
    ) -> Float[Array, "B S D"]:
        return self.of_window(x)(experts, params, x, routing)

    def of_window(self, x: Float[Array, "B S D"]) -> Dropless | Dense:
        """What a window of this size is computed with."""
        return Dropless() if x.shape[0] * x.shape[1] <= self.tokens else Dense()


def _combine(
    y: Float[Array, "... D"],
    flat: Int[Array, "P"],
    experts: Experts,
    x: Float[Array, "B S D"],
    routing: Routing,
) -> Float[Array, "B S D"]:
    """The weighted sum over each token's slots; those that are not computed count 0."""
    shape = routing.experts.shape
    weights = jnp.where(flat.reshape(shape) < experts.num_experts, routing.weights, 0.0)
    y = y.reshape(*shape, x.shape[-1])
    summed = jnp.einsum(
        "bskd,bsk->bsd",
        y,
        weights,
        precision=lax.Precision.HIGHEST,  # of the weights, which a TPU would round to bfloat16
        preferred_element_type=jnp.float32,
    )
    return summed.astype(x.dtype)
