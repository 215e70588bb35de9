"""BlockFFN's router: as many experts as have a positive score."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from jaxmodels.layers.moe.routers import router_logits, router_spec
from jaxmodels.layers.moe.routing import ALONE, RouterContext, Routing
from jaxmodels.layers.norm import rms_norm
from jaxmodels.layers.spec import ONES, Param, Params, ParamTree

RouterNorm = Literal["none", "sum", "rms"]


@dataclass(frozen=True, kw_only=True)
class ReLURouter:
    """``s = relu(w x)``, normalised over the experts; those with ``s = 0`` are left out.

    Source: BlockFFN (https://github.com/thunlp/BlockFFN).

    Attributes:
        d_model: width of x.
        num_experts: experts, each of which has a score.
        norm: "rms" divides by the root mean square and multiplies by a learned scale per expert; as no mean
            is taken off, 0 stays 0. "sum" divides by ``norm_scale * sum(s) + 1e-5``. "none" leaves s as it
            is.
        eps: added to the mean square.
        norm_scale: see "sum".

    Raises:
        ValueError: `norm` is unknown or `num_experts` is below 1.
    """

    d_model: int
    num_experts: int
    norm: RouterNorm = "rms"
    eps: float = 1e-5
    norm_scale: float = 1.0
    causal: ClassVar[bool] = True
    reads_previous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        if self.norm not in ("none", "sum", "rms"):
            raise ValueError(f"ReLURouter: norm must be 'none', 'sum' or 'rms', got {self.norm!r}")
        if self.num_experts < 1:
            raise ValueError(f"ReLURouter: num_experts must be at least 1, got {self.num_experts}")

    @property
    def top_k(self) -> int:
        return self.num_experts

    def spec(self) -> ParamTree:
        tree = router_spec(self.d_model, self.num_experts)
        if self.norm == "rms":
            tree["scale"] = Param((self.num_experts,), (None,), ONES)
        return tree

    def __call__(
        self,
        params: Params,
        x: Float[Array, "... S D"],
        context: RouterContext = ALONE,
    ) -> Routing:
        logits = router_logits(params, x)
        scores = jax.nn.relu(logits)
        if self.norm == "sum":
            scores = scores / (scores.sum(-1, keepdims=True) * self.norm_scale + 1e-5)
        elif self.norm == "rms":
            scores = rms_norm(scores, params["scale"], self.eps)
        experts = jnp.where(logits > 0, jnp.arange(self.num_experts, dtype=jnp.int32), self.num_experts)
        return Routing(experts, scores, logits, scores, context.valid)
