"""Expert Choice: experts pick tokens."""

import math
from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.moe.routers import router_logits, router_spec
from jaxmodels.layers.moe.routing import ALONE, RouterContext, Routing
from jaxmodels.layers.spec import Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class ExpertChoice:
    """Every expert picks the ``ceil(experts_per_token * n / E)`` tokens of a row that it scores highest.

    Scores, which are also the weights, are ``softmax(w x)`` over the experts; n counts the row's real
    tokens. A token may be picked by any number of experts. Since a pick depends on the tokens that follow, it
    is no router for text that is generated token by token. Source: https://arxiv.org/abs/2202.09368; picks
    are made within a row, so that rows do not compete.

    Raises:
        ValueError: `experts_per_token` is not between 0 (excluded) and `num_experts`.
    """

    d_model: int
    num_experts: int
    experts_per_token: float = 2.0
    causal: ClassVar[bool] = False
    reads_previous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if not 0 < self.experts_per_token <= self.num_experts:
            raise ValueError(
                f"ExpertChoice: experts_per_token must be above 0 and at most num_experts="
                f"{self.num_experts}, got {self.experts_per_token}"
            )

    @property
    def top_k(self) -> int:
        return math.ceil(self.experts_per_token)

    def spec(self) -> ParamTree:
        return router_spec(self.d_model, self.num_experts)

    def __call__(
        self,
        params: Params,
        x: Float[Array, "... S D"],
        context: RouterContext = ALONE,
    ) -> Routing:
        logits = router_logits(params, x)
        scores = jax.nn.softmax(logits, axis=-1)
        *rows, size, _ = x.shape
        real = jnp.ones((*rows, size), bool) if context.valid is None else context.valid
        picks = jnp.ceil(self.experts_per_token * real.sum(-1) / self.num_experts)
        order = jnp.argsort(jnp.where(real[..., None], -scores, jnp.inf), axis=-2, stable=True)
        rank = jnp.argsort(order, axis=-2)
        picked = (rank < picks[..., None, None]) & real[..., None]
        experts = jnp.where(picked, jnp.arange(self.num_experts, dtype=jnp.int32), self.num_experts)
        most = math.ceil(self.experts_per_token * size / self.num_experts) * self.num_experts
        return Routing(
            experts,
            jnp.where(picked, scores, 0.0),
            logits,
            scores,
            context.valid,
            max_pairs=min(most, size * self.num_experts) * math.prod(rows),
        )
