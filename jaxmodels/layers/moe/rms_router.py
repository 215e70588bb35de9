"""Gemma 4's router: softmax top-k of normalised features, with a learned factor for each expert."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.moe.routers import check_choice, router_logits, router_spec, take_experts
from jaxmodels.layers.moe.routing import ALONE, RouterContext, Routing
from jaxmodels.layers.norm import rms_norm
from jaxmodels.layers.spec import ONES, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class RMSRouter:
    """`SoftmaxTopK` of ``rms_norm(x) * scale / sqrt(d_model)``, whose weights sum to 1 over the chosen
    experts and are then multiplied by each expert's own factor.

    Source: `Gemma4TextRouter` of transformers, whose ``scale`` and ``per_expert_scale`` are learned.

    Attributes:
        d_model: width of x.
        num_experts: experts to choose from.
        top_k: experts per token.
        eps: added to the mean square.

    Raises:
        ValueError: `top_k` exceeds `num_experts`.
    """

    d_model: int
    num_experts: int
    top_k: int
    eps: float = 1e-6
    causal: ClassVar[bool] = True
    reads_previous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self, self.top_k)

    def spec(self) -> ParamTree:
        return {
            **router_spec(self.d_model, self.num_experts),
            "scale": Param((self.d_model,), ("embed",), ONES),
            "expert_scale": Param((self.num_experts,), (None,), ONES),
        }

    def __call__(
        self,
        params: Params,
        x: Float[Array, "... S D"],
        context: RouterContext = ALONE,
    ) -> Routing:
        normed = rms_norm(x.astype(jnp.float32), params["scale"].astype(jnp.float32), self.eps)
        logits = router_logits(params, normed * self.d_model**-0.5)
        chosen, experts = take_experts(logits, self.top_k)
        weights = jax.nn.softmax(chosen, axis=-1) * params["expert_scale"].astype(jnp.float32)[experts]
        return Routing(experts, weights, logits, jax.nn.softmax(logits, axis=-1), context.valid)
