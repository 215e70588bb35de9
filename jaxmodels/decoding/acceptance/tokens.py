"""Token by token: the draft's tokens are accepted one after another, up to the first that fails."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.acceptance.excess import normalised, offered, ratios
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
        if tree is None:
            draft, drafted = jnp.pad(draft, ((0, 0), (0, 1), (0, 0))), jnp.pad(drafted, ((0, 0), (0, 1)))
            ratio = jnp.minimum(1.0, ratios(target, draft, drafted))
            reached = jnp.pad(jnp.cumprod(ratio[:, :-1], axis=1), ((0, 0), (1, 0)), constant_values=1.0)
            ended = reached * (1.0 - ratio)
            return ended[:, :, None] * normalised(jnp.maximum(target - draft, 0.0))

        rows = jnp.arange(drafted.shape[0])

        def offer(i: Array, state: tuple[Array, Array, Array]) -> tuple[Array, Array, Array]:
            """Token i's own `taken`, and its parent's state once the token is not taken."""
            taken, none_taken, left = state
            parent, p, q, ratio = offered(i, left, draft, drafted, tree)
            chance, before = jnp.minimum(1.0, ratio), none_taken[rows, parent]
            return (
                taken.at[rows, i + 1].set(before * chance),
                none_taken.at[rows, parent].set(before * (1.0 - chance)),
                left.at[rows, parent].set(normalised(jnp.maximum(p - q, 0.0))),
            )

        # Of each window token: that it is taken once its parent is, and that none of its children is.
        all_one = jnp.ones_like(target[:, :, 0])
        state = lax.fori_loop(0, drafted.shape[1], offer, (all_one, all_one, target))
        taken, none_taken, left = state
        reached = jnp.where(tree.ancestors(), taken[:, None, :], 1.0).prod(-1)
        return (reached * none_taken)[:, :, None] * left


register_dataclass(TokenVerification, [], [])
