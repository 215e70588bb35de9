"""Routers: which experts see which tokens, as small frozen dataclasses behind one method.

Logits are computed and kept in float32 whatever the model's dtype.
"""

from dataclasses import dataclass
from typing import ClassVar, Protocol

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int

from jaxmodels.layers.linear import linear
from jaxmodels.layers.moe.routing import ALONE, RouterContext, Routing
from jaxmodels.layers.spec import ZEROS, FanIn, Param, Params, ParamTree


class Router(Protocol):
    """Sends tokens to experts. Implementations are hashable frozen dataclasses."""

    @property
    def causal(self) -> bool:
        """Whether a token's routing depends on itself alone, so that decoding can go token by token."""

    @property
    def reads_previous(self) -> bool:
        """Whether it looks at the logits of the router before it."""

    @property
    def d_model(self) -> int: ...
    @property
    def num_experts(self) -> int: ...
    @property
    def top_k(self) -> int:
        """Experts per token; for routers where that varies, the most or the mean."""

    def spec(self) -> ParamTree: ...

    def __call__(
        self,
        params: Params,
        x: Float[Array, "... S D"],
        context: RouterContext = ALONE,
    ) -> Routing: ...


def router_logits(params: Params, x: Float[Array, "... D"]) -> Float[Array, "... E"]:
    """``w x``, plus a bias if there is one, in float32 throughout: rounded, it would choose other experts."""
    logits = in_float32(x, params["w"])
    return logits + params["b"].astype(jnp.float32) if "b" in params else logits


def in_float32(x: Float[Array, "... D"], w: Float[Array, "E D"]) -> Float[Array, "... E"]:
    """``w x`` in float32, on TPUs too, which by default would round the operands to bfloat16."""
    return linear(x.astype(jnp.float32), w.astype(jnp.float32), precision=lax.Precision.HIGHEST)


def take_experts(
    scores: Float[Array, "... E"], top_k: int
) -> tuple[Float[Array, "... k"], Int[Array, "... k"]]:
    """The `top_k` best scores and whose they are; of equal ones the first."""
    values, experts = lax.top_k(scores, top_k)
    return values, experts.astype(jnp.int32)


def keep_groups(
    scores: Float[Array, "... E"], num_groups: int, top_groups: int, best_of_group: int
) -> Bool[Array, "... E"]:
    """Whether each expert's group is among the `top_groups` best; a group's score is the sum of its
    `best_of_group` best experts' (https://arxiv.org/abs/2405.04434, section 2.2.2)."""
    grouped = scores.reshape(*scores.shape[:-1], num_groups, -1)
    group_scores = lax.top_k(grouped, best_of_group)[0].sum(-1)
    best = lax.top_k(group_scores, top_groups)[1]
    kept = (best[..., None] == jnp.arange(num_groups)).any(-2)
    return jnp.repeat(kept, grouped.shape[-1], axis=-1)


@dataclass(frozen=True, kw_only=True)
class SoftmaxTopK:
    """``p = softmax(w x)``; the `top_k` most probable experts, each weighted by ``scale * p``.

    Attributes:
        d_model: width of x.
        num_experts: experts to choose from.
        top_k: experts per token.
        renormalise: whether the chosen weights sum to `scale`. That is the softmax over the chosen logits
            alone, which some call top-k before softmax.
        scale: see above.
        bias: whether the logits have one.
        num_groups, top_groups: experts are chosen within the `top_groups` of `num_groups` groups whose best
            expert is most probable (DeepSeek-V2's group-limited greedy choice).

    Raises:
        ValueError: `top_k` exceeds what there is to choose from, or `num_groups` does not divide
            `num_experts`.
    """

    d_model: int
    num_experts: int
    top_k: int
    renormalise: bool = True
    scale: float = 1.0
    bias: bool = False
    num_groups: int = 1
    top_groups: int = 1
    causal: ClassVar[bool] = True
    reads_previous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self, self.top_k)
        check_groups(self, best_of_group=1)

    def spec(self) -> ParamTree:
        return router_spec(self.d_model, self.num_experts, bias=self.bias)

    def __call__(
        self,
        params: Params,
        x: Float[Array, "... S D"],
        context: RouterContext = ALONE,
    ) -> Routing:
        logits = router_logits(params, x)
        scores = jax.nn.softmax(logits, axis=-1)
        eligible = logits
        if self.top_groups < self.num_groups:
            eligible = jnp.where(keep_groups(logits, self.num_groups, self.top_groups, 1), logits, -jnp.inf)
        chosen, experts = take_experts(eligible, self.top_k)
        if self.renormalise:
            weights = jax.nn.softmax(chosen, axis=-1)
        else:
            weights = jnp.take_along_axis(scores, experts, axis=-1)
        return Routing(experts, self.scale * weights, logits, scores, context.valid)


@dataclass(frozen=True, kw_only=True)
class SigmoidTopK:
    """``s = sigmoid(w x)``; `top_k` experts of highest ``s + selection_bias``, weighted by ``scale * s``.

    Source: DeepSeek-V3 (https://arxiv.org/abs/2412.19437, section 2.1.2).

    Attributes:
        d_model: width of x.
        num_experts: experts to choose from.
        top_k: experts per token.
        renormalise: whether the chosen s are divided by their sum plus `eps`.
        scale: see above.
        eps: see `renormalise`.
        selection_bias: whether a parameter decides who is chosen but not with what weight; training moves it
            against the load, outside the gradient (see `losses.update_selection_bias`).
        bias: whether the logits have one.
        num_groups, top_groups: experts are chosen within the `top_groups` of `num_groups` groups whose two
            best experts have the highest sum.

    Raises:
        ValueError: `top_k` exceeds what there is to choose from, `num_groups` does not divide `num_experts`,
            or groups that are compared have fewer than two experts.
    """

    d_model: int
    num_experts: int
    top_k: int
    renormalise: bool = True
    scale: float = 1.0
    eps: float = 1e-20
    selection_bias: bool = True
    bias: bool = False
    num_groups: int = 1
    top_groups: int = 1
    causal: ClassVar[bool] = True
    reads_previous: ClassVar[bool] = False

    def __post_init__(self) -> None:
        check_choice(self, self.top_k)
        check_groups(self, best_of_group=2)

    def spec(self) -> ParamTree:
        tree = router_spec(self.d_model, self.num_experts, bias=self.bias)
        if self.selection_bias:
            tree["selection_bias"] = Param((self.num_experts,), (None,), ZEROS, dtype="float32")
        return tree

    def __call__(
        self,
        params: Params,
        x: Float[Array, "... S D"],
        context: RouterContext = ALONE,
    ) -> Routing:
        logits = router_logits(params, x)
        scores = jax.nn.sigmoid(logits)
        preference = lax.stop_gradient(scores)
        if self.selection_bias:
            preference = preference + lax.stop_gradient(params["selection_bias"])
        if self.top_groups < self.num_groups:
            kept = keep_groups(preference, self.num_groups, self.top_groups, 2)
            preference = jnp.where(kept, preference, -jnp.inf)
        _, experts = take_experts(preference, self.top_k)
        weights = jnp.take_along_axis(scores, experts, axis=-1)
        if self.renormalise:
            weights = weights / (weights.sum(-1, keepdims=True) + self.eps)
        return Routing(experts, self.scale * weights, logits, scores, context.valid)


def router_spec(d_model: int, num_experts: int, *, bias: bool = False) -> ParamTree:
    """The parameters that `router_logits` reads."""
    tree: ParamTree = {"w": Param((num_experts, d_model), (None, "embed"), FanIn(d_model))}
    if bias:
        tree["b"] = Param((num_experts,), (None,), ZEROS)
    return tree


def check_choice(router: Router, top_k: int) -> None:
    """Raises ValueError unless `top_k` of the router's experts can be chosen."""
    if not 1 <= top_k <= router.num_experts:
        raise ValueError(
            f"{type(router).__name__}: top_k must be between 1 and num_experts={router.num_experts}, got "
            f"{top_k}"
        )


def check_groups(router: SoftmaxTopK | SigmoidTopK, best_of_group: int) -> None:
    """Raises ValueError unless the experts fall into equal groups that hold enough of them."""
    name, experts, groups = type(router).__name__, router.num_experts, router.num_groups
    if groups < 1 or experts % groups:
        raise ValueError(f"{name}: num_groups must divide num_experts={experts}, got {groups}")
    if not 1 <= router.top_groups <= groups:
        raise ValueError(
            f"{name}: top_groups must be between 1 and num_groups={groups}, got {router.top_groups}"
        )
    per_group = experts // groups
    if router.top_groups < groups and per_group < best_of_group:
        raise ValueError(
            f"{name}: groups are compared by their {best_of_group} best experts, but num_experts={experts} "
            f"in num_groups={groups} leaves {per_group} in each"
        )
    if router.top_k > router.top_groups * per_group:
        raise ValueError(
            f"{name}: top_k={router.top_k} exceeds the {router.top_groups * per_group} experts of "
            f"top_groups={router.top_groups} out of num_groups={groups} groups"
        )
