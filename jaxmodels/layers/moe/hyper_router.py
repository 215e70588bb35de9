"""HyperRouter: a router whose weights a frozen network makes from a trained embedding."""

from dataclasses import dataclass
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from jaxmodels.layers.moe.routers import SoftmaxTopK, check_choice
from jaxmodels.layers.moe.routing import ALONE, RouterContext, Routing
from jaxmodels.layers.spec import FanIn, Normal, Param, Params, ParamTree


@dataclass(frozen=True, kw_only=True)
class HyperRouter:
    """`SoftmaxTopK` with ``w = relu(embedding @ hyper_in) @ hyper_out``, reshaped to ``[E, D]``.

    The two hypernetwork matrices are drawn once and never trained: no gradient reaches them. Only the
    embedding is. After training the router is a constant: see `fold`. Source: https://arxiv.org/abs/2312.07035;
    the hypernetwork's depth and activation are inferred from its abstract.

    Raises:
        ValueError: `top_k` exceeds `num_experts`.
    """

    d_model: int
    num_experts: int
    top_k: int
    embedding_dim: int = 64
    hidden: int = 64
    renormalise: bool = True
    causal: ClassVar[bool] = True
    reads_previous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self, self.top_k)

    def spec(self) -> ParamTree:
        made = self.d_model * self.num_experts
        return {
            "embedding": Param((self.embedding_dim,), (None,), Normal(1.0)),
            "hyper_in": Param(
                (self.embedding_dim, self.hidden), (None, None), FanIn(self.embedding_dim), frozen=True
            ),
            "hyper_out": Param(
                (self.hidden, made), (None, None), FanIn(self.hidden * self.d_model // 2), frozen=True
            ),
        }

    def weights(self, params: Params) -> Float[Array, "E D"]:
        """The router's matrix."""
        hyper_in, hyper_out = (lax.stop_gradient(params[name]) for name in ("hyper_in", "hyper_out"))
        hidden = jnp.matmul(params["embedding"], hyper_in, precision=lax.Precision.HIGHEST)
        made = jnp.matmul(jax.nn.relu(hidden), hyper_out, precision=lax.Precision.HIGHEST)
        return made.reshape(self.num_experts, self.d_model)

    def fold(self, params: Params) -> tuple[SoftmaxTopK, Params]:
        """The plain router with the same outputs, and its parameters: what a trained model is exported as."""
        router = SoftmaxTopK(
            d_model=self.d_model,
            num_experts=self.num_experts,
            top_k=self.top_k,
            renormalise=self.renormalise,
        )
        return router, {"w": jnp.asarray(self.weights(params))}

    def __call__(
        self,
        params: Params,
        x: Float[Array, "... S D"],
        context: RouterContext = ALONE,
    ) -> Routing:
        router, folded = self.fold(params)
        return router(folded, x, context)
