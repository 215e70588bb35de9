"""MoE++'s router, which looks at the choice of the layer before, and its experts that cost almost nothing."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.layers.linear import linear
from jaxmodels.layers.moe.routers import check_choice, in_float32, router_logits, take_experts
from jaxmodels.layers.moe.routing import ALONE, RouterContext, Routing
from jaxmodels.layers.spec import FanIn, Normal, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class ResidualRouter:
    """``logits = gate(x) + w_previous previous``, top-k of their softmax, renormalised.

    Source: MoE++ (https://github.com/SkyworkAI/MoE-plus-plus).

    Attributes:
        d_model: width of x.
        num_experts: all experts, those without a feed-forward included.
        top_k: experts per token.
        hidden: the gate is ``w tanh(w_in x)`` with this many hidden features; None for ``w x``.
        logit_std: the logits of each token are scaled to this standard deviation before the softmax; None
            leaves them.
        zero_expert: whether the last expert is a zero expert, whose weight is set to 0 before the chosen
            weights are renormalised, so that the token's other experts take it over.

    Raises:
        ValueError: `top_k` exceeds `num_experts`, or with a zero expert is below 2.
    """

    d_model: int
    num_experts: int
    top_k: int = 2
    hidden: int | None = None
    logit_std: float | None = None
    zero_expert: bool = True
    causal: ClassVar[bool] = True
    reads_previous: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_choice(self, self.top_k)
        if self.zero_expert and self.top_k < 2:
            raise ValueError(
                f"ResidualRouter: zero_expert=True needs top_k of at least 2, got {self.top_k}: a token that "
                "chose the zero expert alone would have no weight to renormalise"
            )

    def spec(self) -> ParamTree:
        fan_in = self.d_model if self.hidden is None else self.hidden
        count = self.num_experts
        tree: ParamTree = {"w": Param((count, fan_in), (None, None), FanIn(fan_in), dtype="float32")}
        if self.hidden is not None:
            shape = (self.hidden, self.d_model)
            tree["w_in"] = Param(shape, (None, "embed"), FanIn(self.d_model), dtype="float32")
        tree["w_previous"] = Param((count, count), (None, None), FanIn(count))
        return tree

    def __call__(
        self,
        params: Params,
        x: Float[Array, "... S D"],
        context: RouterContext = ALONE,
    ) -> Routing:
        features = x.astype(jnp.float32)
        if self.hidden is not None:
            features = jnp.tanh(in_float32(features, params["w_in"]))
        # libtpu 0.0.42 crashes where it fuses this product with the choice that follows.
        logits = lax.optimization_barrier(router_logits({"w": params["w"]}, features))
        if context.previous is not None:
            w = params["w_previous"]
            logits = logits + linear(context.previous.astype(w.dtype), w).astype(jnp.float32)
        scaled = logits
        if self.logit_std is not None:
            scaled = logits / (jnp.std(logits, axis=-1, keepdims=True, ddof=1) / self.logit_std)
        scores = jax.nn.softmax(scaled, axis=-1)
        weights, experts = take_experts(scores, self.top_k)
        if self.zero_expert:
            weights = jnp.where(experts == self.num_experts - 1, 0.0, weights)
        weights = weights / weights.sum(-1, keepdims=True)
        return Routing(experts, weights, logits, scores, context.valid)


@dataclass(frozen=True, kw_only=True)
class ZeroComputationExperts:
    """Experts without a feed-forward. They follow those that have one, in the order of the fields.

    Attributes:
        d_model: width of x.
        constants: experts that give ``a[0] * x + a[1] * c`` with ``a = softmax(x @ w)`` and a learned vector
            c.
        copies: experts that give x.
        zeros: experts that give 0.

    Raises:
        ValueError: a count is negative, or all are 0.
    """

    d_model: int
    constants: int = 2
    copies: int = 1
    zeros: int = 1

    def __post_init__(self) -> None:
        counts = (self.constants, self.copies, self.zeros)
        if min(counts) < 0 or sum(counts) == 0:
            raise ValueError(
                f"ZeroComputationExperts: constants={self.constants}, copies={self.copies} and "
                f"zeros={self.zeros} must not be negative, and not all be 0"
            )

    @property
    def count(self) -> int:
        return self.constants + self.copies + self.zeros

    def spec(self) -> ParamTree:
        if not self.constants:
            return {}
        return {
            "w": Param((self.constants, self.d_model, 2), (None, "embed", None), FanIn(self.d_model)),
            "constant": Param((self.constants, self.d_model), (None, "embed"), Normal(1.0)),
        }

    def __call__(
        self, params: Params, x: Float[Array, "... D"], weights: Float[Array, "... E"]
    ) -> Float[Array, "... D"]:
        """The weighted sum of these experts; `weights` has one column for each of them."""
        copied = weights[..., self.constants : self.constants + self.copies].sum(-1)
        if not self.constants:
            return x * copied[..., None].astype(x.dtype)
        mixing = jax.nn.softmax(jnp.einsum("...d,jdi->...ji", x, params["w"]).astype(jnp.float32), axis=-1)
        mixing = mixing * weights[..., : self.constants, None]
        kept = copied + mixing[..., 0].sum(-1)
        replaced = jnp.einsum("...j,jd->...d", mixing[..., 1].astype(x.dtype), params["constant"])
        return x * kept[..., None].astype(x.dtype) + replaced
