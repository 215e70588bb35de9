"""Typical acceptance: tokens that are not improbable are kept. It is lossy."""

from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from jaxmodels.checks import is_traced, number
from jaxmodels.decoding.acceptance.excess import normalised
from jaxmodels.decoding.trees import Tree, chain_tree, depths
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True, kw_only=True)
class TypicalAcceptance:
    """Accepts tokens to which the model gives a typical probability. LOSSY: the output is not the model's.

    A token is typical where ``p > min(threshold, scale * exp(-H))`` with the entropy
    ``H = -sum_v p(v) log(p(v) + 1e-5)`` of its distribution, and the most probable token always is: of a flat
    distribution no token may exceed that bound. The longest path of typical tokens is accepted,
    of equally long ones the most probable, and of equals the first. What follows it is sampled from the
    typical tokens, here ``p >= min(...)``. The draft's distributions are not asked: it takes chains and every
    tree. With `Greedy` it is not asked, and the output is the model's.

    Source: Medusa (https://arxiv.org/abs/2401.10774) and its reference code, whose generation passes these
    two numbers; some of its helper functions have them as defaults the other way round.

    Attributes:
        threshold: the most that a token's probability must exceed, 0 <= threshold <= 1.
        scale: of the threshold where the model is unsure, 0 <= scale <= 1.

    Raises:
        ValueError: a value outside its range.
    """

    threshold: float = 0.09
    scale: float = 0.3

    def __post_init__(self) -> None:
        for name in ("threshold", "scale"):
            value = getattr(self, name)
            if not is_traced(value):
                object.__setattr__(self, name, number(name, value, low=0.0, high=1.0))

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
        tree: Tree | None = None,
    ) -> Float[Array, "B G+1 V"]:
        tree = chain_tree(drafted) if tree is None else tree
        rows = jnp.arange(drafted.shape[0])[:, None]
        entropy = -(target * jnp.log(target + 1e-5)).sum(-1)
        most = target.max(-1)
        least = jnp.minimum(jnp.minimum(self.threshold, self.scale * jnp.exp(-entropy)), most)
        p = target[rows, tree.parents, drafted]
        is_there = jnp.take_along_axis(draft, drafted[:, :, None], axis=2)[:, :, 0] > 0
        is_typical = is_there & ((p > least[rows, tree.parents]) | (p == most[rows, tree.parents]))
        is_kept = jnp.pad(is_typical, ((0, 0), (1, 0)), constant_values=True)
        likelihood = jnp.pad(jnp.where(is_typical, jnp.log(p), 0.0), ((0, 0), (1, 0)))
        ancestors = tree.ancestors()
        depth = jnp.where((~ancestors | is_kept[:, None, :]).all(-1), depths(ancestors), -1)
        of_path = jnp.where(ancestors, likelihood[:, None, :], 0.0).sum(-1)
        longest = depth == depth.max(-1, keepdims=True)
        node = jnp.argmax(jnp.where(longest, of_path, -jnp.inf), axis=-1)
        following = normalised(jnp.where(target >= least[:, :, None], target, 0.0))
        return jnp.where((jnp.arange(tree.size) == node[:, None])[:, :, None], following, 0.0)


register_dataclass(TypicalAcceptance, ["threshold", "scale"], [])
