"""The mixture-of-experts feed-forward: a router, a stack of experts, and one that all tokens share."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import MLP, FeedForward, GatedMLP
from jaxmodels.layers.moe.dispatch import DROPLESS, Dispatch
from jaxmodels.layers.moe.experts import Experts
from jaxmodels.layers.moe.routers import Router
from jaxmodels.layers.moe.routing import Routing
from jaxmodels.layers.spec import FanIn, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class MoE:
    """``sum of weight * expert(x)`` over the experts that the router chooses per token, plus ``shared(x)``.

    shared: a feed-forward that every token passes. shared_gate: it is multiplied by ``sigmoid(x @ w)``, w
    being one weight vector. dispatch: how rows reach their experts.

    Raises:
        ValueError: router and experts differ in number or width, or `shared_gate` without `shared`.
    """

    router: Router
    experts: Experts
    shared: GatedMLP | MLP | None = None
    shared_gate: bool = False
    dispatch: Dispatch = DROPLESS

    def __post_init__(self) -> None:
        for name in ("num_experts", "d_model"):
            chosen, present = getattr(self.router, name), getattr(self.experts, name)
            if chosen != present:
                raise ValueError(f"MoE: router.{name}={chosen} must equal experts.{name}={present}")
        if self.shared is not None and self.shared.d_model != self.d_model:
            raise ValueError(f"MoE: shared.d_model={self.shared.d_model} must equal d_model={self.d_model}")
        if self.shared_gate and self.shared is None:
            raise ValueError("MoE: shared_gate=True needs a shared feed-forward, got shared=None")

    @property
    def d_model(self) -> int:
        return self.experts.d_model

    @property
    def causal(self) -> bool:
        """Whether a token's output depends on itself alone."""
        return self.router.causal and self.dispatch.causal

    def spec(self) -> ParamTree:
        tree: ParamTree = {"router": self.router.spec(), "experts": self.experts.spec()}
        if self.shared is not None:
            tree["shared"] = self.shared.spec()
        if self.shared_gate:
            tree["shared_gate"] = {"w": Param((self.d_model, 1), ("embed", None), FanIn(self.d_model))}
        return tree

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token, the same for every `context`."""
        router = 2 * self.d_model * self.router.num_experts
        shared = 0 if self.shared is None else self.shared.flops_per_token(context)
        return router + self.router.top_k * self.experts.flops_per_row + shared

    def __call__(self, params: Params, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return self.routed(params, x)[0]

    def routed(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        previous: Float[Array, "B S E"] | None = None,
        valid: Bool[Array, "B S"] | None = None,
    ) -> tuple[Float[Array, "B S D"], Routing]:
        """The layer's output and the routing behind it. previous, valid: see `Router`."""
        routing = self.router(params["router"], x, previous, valid)
        y = self.dispatch(self.experts, params["experts"], x, routing.drop_padding())
        return y if self.shared is None else y + self._shared(params, x), routing

    def _shared(self, params: Params, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        layer: FeedForward | None = self.shared
        assert layer is not None
        y = layer(params["shared"], x)
        if not self.shared_gate:
            return y
        gate = linear(x, params["shared_gate"]["w"]).astype(jnp.float32)
        return y * jax.nn.sigmoid(gate).astype(y.dtype)
