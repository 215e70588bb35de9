"""A router that takes other experts than the best: the ones at given ranks."""

from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.moe.routers import Router, take_experts
from jaxmodels.layers.moe.routing import ALONE, RouterContext, Routing
from jaxmodels.layers.spec import Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class Ranked:
    """`router` with each token's experts replaced by those whose scores have the given ranks, 0 the best.

    Their weights are in proportion to their scores and sum to what the router's own choice sums to. Takes the
    parameters of `router`.

    Raises:
        ValueError: `ranks` is empty, repeats itself, or names more experts than there are; or the router's
            experts pick tokens and so have no ranks.
    """

    router: Router
    ranks: tuple[int, ...]
    causal: ClassVar[bool] = True

    def __post_init__(self) -> None:
        count = self.router.num_experts
        if not self.ranks or len(set(self.ranks)) < len(self.ranks):
            raise ValueError(f"Ranked: ranks must be different and at least one, got {self.ranks}")
        if not all(0 <= rank < count for rank in self.ranks):
            raise ValueError(f"Ranked: ranks must lie below num_experts={count}, got {self.ranks}")
        if not self.router.causal:
            raise ValueError(f"Ranked: the experts of {self.router} pick tokens; tokens must pick experts")

    @property
    def reads_previous(self) -> bool:
        return self.router.reads_previous

    @property
    def d_model(self) -> int:
        return self.router.d_model

    @property
    def num_experts(self) -> int:
        return self.router.num_experts

    @property
    def top_k(self) -> int:
        return len(self.ranks)

    def spec(self) -> ParamTree:
        return self.router.spec()

    def __call__(
        self,
        params: Params,
        x: Float[Array, "... S D"],
        context: RouterContext = ALONE,
    ) -> Routing:
        best = self.router(params, x, context)
        scores, experts = take_experts(best.scores, max(self.ranks) + 1)
        ranks = jnp.asarray(self.ranks)
        scores, experts = scores[..., ranks], experts[..., ranks]
        total = best.weights.sum(-1, keepdims=True)
        weights = total * scores / jnp.maximum(scores.sum(-1, keepdims=True), 1e-20)
        return Routing(experts, weights, best.logits, best.scores, context.valid)
