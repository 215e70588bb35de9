"""The mixture-of-experts feed-forward: a router, a stack of experts, and one that all tokens share."""

from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.host_memory import in_host_memory
from jaxmodels.layers.linear import linear
from jaxmodels.layers.mlp import MLP, GatedMLP
from jaxmodels.layers.moe.across_devices import dispatched
from jaxmodels.layers.moe.dispatch import DROPLESS, Dispatch
from jaxmodels.layers.moe.experts import Experts
from jaxmodels.layers.moe.kept_experts import (
    FETCHED_EACH_TIME,
    Coming,
    ExpertSlots,
    HostExperts,
    empty_slots,
    fetched_ahead,
    with_chosen,
)
from jaxmodels.layers.moe.latent import LatentSpace
from jaxmodels.layers.moe.residual_router import ZeroComputationExperts
from jaxmodels.layers.moe.routers import Router
from jaxmodels.layers.moe.routing import ALONE, RouterContext, Routing
from jaxmodels.layers.norm import Norm
from jaxmodels.layers.spec import FanIn, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class MoE:
    """``sum of weight * expert(x)`` over the experts that the router chooses per token, plus ``shared(x)``.

    Norms may stand before and behind each of the two summands. The router reads x as it is.

    Attributes:
        router: chooses the experts of each token and their weights.
        experts: the experts with a feed-forward.
        zero_computation: experts without one; their numbers follow those of `experts`.
        shared: a feed-forward that every token passes.
        shared_gate: whether its output is multiplied by ``sigmoid(w x)``, w being one weight vector.
        input_scale: what x is multiplied by on its way to the routed experts.
        weighted: what an expert's weight multiplies: its "outputs", or its "inputs", so that the sum is of
            ``expert(weight * x)``.
        latent: the space that `experts` work in; None is the model's.
        expert_norm, expert_post_norm: of what `experts` are given, and of the sum of what they give.
        shared_norm, shared_post_norm: of what `shared` is given, and of what it gives.
        dispatch: how rows reach `experts`.
        in_host: how experts that lie in host memory come to the device.

    Raises:
        ValueError: parts differ in width, router and experts in number, or `shared_gate` or a norm of
            `shared` without `shared`.
    """

    router: Router
    experts: Experts
    zero_computation: ZeroComputationExperts | None = None
    shared: GatedMLP | MLP | None = None
    shared_gate: bool = False
    input_scale: float = 1.0
    weighted: Literal["outputs", "inputs"] = "outputs"
    latent: LatentSpace | None = None
    expert_norm: Norm | None = None
    expert_post_norm: Norm | None = None
    shared_norm: Norm | None = None
    shared_post_norm: Norm | None = None
    dispatch: Dispatch = DROPLESS
    in_host: HostExperts = FETCHED_EACH_TIME

    def __post_init__(self) -> None:
        chosen, present = self.router.num_experts, self.experts.num_experts
        if self.zero_computation is None and chosen != present:
            raise ValueError(f"MoE: router.num_experts={chosen} must equal experts.num_experts={present}")
        if self.zero_computation is not None and chosen != present + self.zero_computation.count:
            raise ValueError(
                f"MoE: router.num_experts={chosen} must equal experts.num_experts={present} plus the "
                f"{self.zero_computation.count} of zero_computation={self.zero_computation}"
            )
        if self.latent is not None and self.latent.dim != self.experts.d_model:
            raise ValueError(
                f"MoE: experts.d_model={self.experts.d_model} must equal latent.dim={self.latent.dim}"
            )
        for name in ("router", "zero_computation", "shared"):
            part = getattr(self, name)
            if part is not None and part.d_model != self.d_model:
                owner = "experts" if self.latent is None else "latent"
                raise ValueError(
                    f"MoE: {name}.d_model={part.d_model} must equal {owner}.d_model={self.d_model}"
                )
        if self.weighted not in ("outputs", "inputs"):
            raise ValueError(f"MoE: weighted must be 'outputs' or 'inputs', got {self.weighted!r}")
        if self.shared_gate and self.shared is None:
            raise ValueError("MoE: shared_gate=True needs a shared feed-forward, got shared=None")
        for name in ("shared_norm", "shared_post_norm"):
            if getattr(self, name) is not None and self.shared is None:
                raise ValueError(f"MoE: {name} needs a shared feed-forward, got shared=None")

    @property
    def d_model(self) -> int:
        return self.experts.d_model if self.latent is None else self.latent.d_model

    @property
    def causal(self) -> bool:
        """Whether a token's output depends on itself alone."""
        return self.router.causal and self.dispatch.causal

    @property
    def carried_logits(self) -> int | None:
        """How many router logits per token it reads from the mixture before it; None: it reads none."""
        return self.router.num_experts if self.router.reads_previous else None

    def spec(self) -> ParamTree:
        tree: ParamTree = {"router": self.router.spec(), "experts": self.experts.spec()}
        if self.zero_computation is not None:
            tree["zero_computation"] = self.zero_computation.spec()
        if self.shared is not None:
            tree["shared"] = self.shared.spec()
        if self.latent is not None:
            tree["latent"] = self.latent.spec()
        if self.shared_gate:
            tree["shared_gate"] = {"w": Param((1, self.d_model), (None, "embed"), FanIn(self.d_model))}
        for name in ("expert_norm", "expert_post_norm", "shared_norm", "shared_post_norm"):
            if getattr(self, name) is not None:
                tree[name] = getattr(self, name).spec()
        return tree

    def flops_per_token(self, context: int) -> int:
        """FLOPs of one token, the same for every `context`, as if all its experts had a feed-forward."""
        router = 2 * self.d_model * self.router.num_experts
        shared = 0 if self.shared is None else self.shared.flops_per_token(context)
        latent = 0 if self.latent is None else self.latent.flops_per_token
        return router + self.router.top_k * self.experts.flops_per_row + latent + shared

    def __call__(self, params: Params, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        return self.routed(params, x)[0]

    def routed(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        context: RouterContext = ALONE,
    ) -> tuple[Float[Array, "B S D"], Routing]:
        """The layer's output and the routing behind it."""
        y, routing, _ = self.routed_with(params, x, context, None, None)
        return y, routing

    def begin_kept(self, params: Params) -> ExpertSlots | None:
        if not self.in_host.kept or not in_host_memory(params["experts"]):
            return None
        return empty_slots(params["experts"], self.experts.num_experts, self.in_host)

    def ask(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        context: RouterContext,
        kept: ExpertSlots,
        before: Array,
    ) -> tuple[Coming | None, Array]:
        if not self.in_host.ahead or kept.count >= self.experts.num_experts:
            return None, before
        guess = self.router(params["router"], x, context)
        if not self._is_served(guess):
            return None, before
        return fetched_ahead(kept, params["experts"], guess, before, self.in_host.ahead)

    def routed_with(
        self,
        params: Params,
        x: Float[Array, "B S D"],
        context: RouterContext,
        kept: ExpertSlots | None,
        coming: Coming | None,
    ) -> tuple[Float[Array, "B S D"], Routing, ExpertSlots | None]:
        routing = self.router(params["router"], x, context)
        filled = routing.drop_padding()
        if kept is not None and self._is_served(routing):
            kept, at_hand = with_chosen(kept, coming, params["experts"], filled.experts)
            params = {**params, "experts": at_hand}
        scaled = x if self.input_scale == 1.0 else x * self.input_scale
        seen = self._normalised(params, "expert_norm", scaled)
        if self.latent is not None:
            seen = self.latent.down(params["latent"], seen)
        y = self._experts(params["experts"], seen, filled)
        if self.latent is not None:
            y = self.latent.up(params["latent"], y)
        y = self._normalised(params, "expert_post_norm", y)
        if self.zero_computation is not None:
            weights = filled.dense_weights()[..., self.experts.num_experts :]
            y = y + self.zero_computation(params["zero_computation"], scaled, weights)
        if self.shared is not None:
            y = y + self._shared(self.shared, params, x)
        return y, routing, kept

    def _is_served(self, routing: Routing) -> bool:
        """Whether the experts that are kept are enough for a window, whatever its tokens choose."""
        return min(routing.experts.size, self.experts.num_experts) <= self.in_host.kept

    def _experts(self, params: Params, x: Float[Array, "B S D"], routing: Routing) -> Float[Array, "B S D"]:
        if self.weighted == "outputs":
            return dispatched(self.dispatch, self.experts, params, x, routing)
        # Each pair of a token and an expert becomes a token of its own, with one expert of weight 1.
        weighted = x[..., None, :] * routing.weights[..., None].astype(x.dtype)
        by_pair = (x.shape[0], x.shape[1] * routing.weights.shape[-1])
        ones = jnp.ones((*by_pair, 1), jnp.float32)
        pairs = replace(routing, experts=routing.experts.reshape(ones.shape), weights=ones, valid=None)
        y = dispatched(self.dispatch, self.experts, params, weighted.reshape(*by_pair, -1), pairs)
        return y.reshape(weighted.shape).sum(-2)

    def _shared(
        self, layer: GatedMLP | MLP, params: Params, x: Float[Array, "B S D"]
    ) -> Float[Array, "B S D"]:
        y = layer(params["shared"], self._normalised(params, "shared_norm", x))
        y = self._normalised(params, "shared_post_norm", y)
        if not self.shared_gate:
            return y
        gate = linear(x, params["shared_gate"]["w"]).astype(jnp.float32)
        return y * jax.nn.sigmoid(gate).astype(y.dtype)

    def _normalised(self, params: Params, name: str, x: Float[Array, "B S D"]) -> Float[Array, "B S D"]:
        """x behind the norm `name`, if the layer has it."""
        norm: Norm | None = getattr(self, name)
        return x if norm is None else norm(params[name], x)
