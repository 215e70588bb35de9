"""Token by token: the draft's tokens are accepted one after another, up to the first that fails."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.acceptance.excess import normalised, ratios
from jaxmodels.decoding.trees import Tree
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class TokenVerification:
    """Accepts token by token, each with probability ``min(1, p / q)``; the first that fails is replaced.

    The replacement comes from the normalised excess ``max(p - q, 0)``; where all are accepted, one more
    token comes from p. Source: Leviathan et al. 2023; Chen et al. 2023.

    In a tree the children of a token are tried one after another. Each that fails leaves the excess as the p
    for the next, and the last one's excess is what the replacement comes from. It is exact whatever each q
    depends on among the siblings before: children drawn independently of one another (SpecInfer's multi-step
    speculative sampling, https://arxiv.org/abs/2305.09781, algorithm 2), without replacement (recursive
    rejection sampling, https://arxiv.org/abs/2402.14160), or chosen without chance, with a one-hot q.
    """

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
        tree: Tree | None = None,
    ) -> Float[Array, "B G+1 V"]:
        draft, drafted = jnp.pad(draft, ((0, 0), (0, 1), (0, 0))), jnp.pad(drafted, ((0, 0), (0, 1)))
        if tree is None:
            ratio = jnp.minimum(1.0, ratios(target, draft, drafted))
            reached = jnp.pad(jnp.cumprod(ratio[:, :-1], axis=1), ((0, 0), (1, 0)), constant_values=1.0)
            ended = reached * (1.0 - ratio)
            return ended[:, :, None] * normalised(jnp.maximum(target - draft, 0.0))
        p, none_taken = target, jnp.ones(target.shape[:2])
        taken = jnp.ones(target.shape[:2])  # of each window token, once its parent has been accepted
        rows = jnp.arange(target.shape[0])[:, None]
        for rank in range(tree.siblings):
            child = tree.children(rank)
            q = jnp.take_along_axis(draft, child[:, :, None], axis=1)
            ratio = jnp.minimum(1.0, ratios(p, q, jnp.take_along_axis(drafted, child, axis=1)))
            # Where there is no child, its window index is one beyond the window's end.
            taken = taken.at[rows, child + 1].set(none_taken * ratio, mode="drop")
            none_taken = none_taken * (1.0 - ratio)
            p = normalised(jnp.maximum(p - q, 0.0))
        reached = jnp.where(tree.ancestors(), taken[:, None, :], 1.0).prod(-1)
        return (reached * none_taken)[:, :, None] * p


register_dataclass(TokenVerification, [], [])
