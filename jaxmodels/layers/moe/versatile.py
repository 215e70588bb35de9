"""VersatileFFN: one feed-forward used as a mixture of its own slices and as a loop over itself."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe.dispatch import DROPLESS, Dispatch
from jaxmodels.layers.moe.experts import GatedExperts
from jaxmodels.layers.moe.routers import SoftmaxTopK
from jaxmodels.layers.moe.routing import ALONE, RouterContext, Routing
from jaxmodels.layers.quantized.array import dequantized
from jaxmodels.layers.spec import FanIn, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class VersatileFFN:
    """``easy * wide(x) + (1 - easy) * deep(x)``, both over the parameters of one gated feed-forward.

    wide: a mixture of `num_experts` virtual experts of which `top_k` are chosen; expert e is the feed-forward
    with its hidden features ``e * d_ff / num_experts ..`` alone. deep: ``sum over l of p[l] * ffn^l(x)``,
    where ``p = softmax(w_depth x)`` predicts how often, from 1 to `max_depth`, the feed-forward should be
    applied. easy: ``(max_depth - mean depth) / max_depth``.

    Source: https://arxiv.org/abs/2512.14531. Inferred, as the code was not at hand: slices are contiguous,
    the loop has no residual of its own, and depths are blended as they are in training without Gumbel noise.

    Raises:
        ValueError: `num_experts` does not divide `d_ff`, `top_k` exceeds it, or `max_depth` is below 1.
    """

    d_model: int
    d_ff: int
    num_experts: int
    top_k: int
    max_depth: int
    activation: str = "silu"
    dispatch: Dispatch = DROPLESS

    def __post_init__(self) -> None:
        if self.num_experts < 1 or self.d_ff % self.num_experts:
            raise ValueError(
                f"VersatileFFN: num_experts must divide d_ff={self.d_ff}, got {self.num_experts}"
            )
        if self.max_depth < 1:
            raise ValueError(f"VersatileFFN: max_depth must be at least 1, got {self.max_depth}")
        self._router()  # refuses what it cannot choose

    def spec(self) -> ParamTree:
        depth = Param((self.max_depth, self.d_model), (None, "embed"), FanIn(self.d_model))
        return {"ffn": self._ffn().spec(), "router": self._router().spec(), "depth": {"w": depth}}

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token, the same for every `context`."""
        once = self._ffn().flops_per_token(context)
        gates = 2 * self.d_model * (self.num_experts + self.max_depth)
        return gates + once * self.top_k // self.num_experts + once * self.max_depth

    @property
    def causal(self) -> bool:
        """Whether a token's output depends on itself alone."""
        return self.dispatch.causal

    @property
    def carried_logits(self) -> None:
        """None: its router reads nothing of the mixture before it."""

    def __call__(self, params: Params, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return self.routed(params, x)[0]

    def routed(
        self, params: Params, x: Float[Array, "B S D"], context: RouterContext = ALONE
    ) -> tuple[Float[Array, "B S D"], Routing]:
        """The layer's output and the routing of its slices."""
        chances = jax.nn.softmax(linear(x, params["depth"]["w"]).astype(jnp.float32), axis=-1)
        depths = jnp.arange(1, self.max_depth + 1, dtype=jnp.float32)
        easy = (self.max_depth - chances @ depths) / self.max_depth
        deep = jnp.zeros(x.shape, jnp.float32)
        hidden = x
        for depth in range(self.max_depth):
            hidden = self._ffn()(params["ffn"], hidden)
            deep = deep + chances[..., depth, None] * hidden
        routing = self._router()(params["router"], x, context)
        wide = self._wide(params, x, routing.drop_padding())
        return (easy[..., None] * wide + (1.0 - easy[..., None]) * deep).astype(x.dtype), routing

    def _wide(self, params: Params, x: Float[Array, "B S D"], routing: Routing) -> Float[Array, "B S D"]:
        width = self.d_ff // self.num_experts
        slices = {
            name: rearrange(dequantized(params["ffn"][name]), axes, e=self.num_experts)
            for name, axes in (
                ("w_gate", "(e f) d -> e d f"),
                ("w_up", "(e f) d -> e d f"),
                ("w_down", "d (e f) -> e f d"),
            )
        }
        experts = GatedExperts(
            num_experts=self.num_experts, d_model=self.d_model, d_ff=width, activation=self.activation
        )
        return self.dispatch(experts, slices, x, routing)

    def _ffn(self) -> GatedMLP:
        return GatedMLP(d_model=self.d_model, d_ff=self.d_ff, activation=self.activation)

    def _router(self) -> SoftmaxTopK:
        return SoftmaxTopK(d_model=self.d_model, num_experts=self.num_experts, top_k=self.top_k)
