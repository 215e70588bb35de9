"""Traversal verification: a tree is judged from its leaves up, each path by all of its probabilities."""

from dataclasses import dataclass

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Int

from jaxmodels.decoding.acceptance.excess import normalised, offered, share
from jaxmodels.decoding.trees import Tree, chain_tree, depths
from jaxmodels.pytrees import register_dataclass


@dataclass(frozen=True)
class TraversalVerification:
    """Accepts a leaf, with what leads to it, or drops it and goes on with what is left of the tree.

    A token x is kept with probability ``b = min(1, b' p(x) / q(x))``, where b' is its parent's. Leaves are
    tried from the first to the last. One that is dropped leaves its parent with the distribution
    ``p = normalised(max(b' p - q, 0))`` and with ``b' = r / (r + 1 - b')``, r being the sum of the excess;
    a parent without further children is a leaf. A path is thus judged by all of its probabilities together,
    as by `BlockVerification`, which this is in a chain; in trees it accepts more than `TokenVerification`.
    It is exact whatever each q depends on among the siblings before.

    Source: Traversal Verification (https://arxiv.org/abs/2505.12398).
    """

    def outcomes(
        self,
        target: Float[Array, "B G+1 V"],
        draft: Float[Array, "B G V"],
        drafted: Int[Array, "B G"],
        tree: Tree | None = None,
    ) -> Float[Array, "B G+1 V"]:
        tree = chain_tree(drafted) if tree is None else tree
        rows = jnp.arange(drafted.shape[0])

        def enter_and_drop(i: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
            """Token i's own `kept`, and its parent's state once the token and all behind it are dropped."""
            kept, left = state
            parent, p, q, ratio = offered(i, left, draft, drafted, tree)
            before = kept[rows, parent]
            excess = jnp.maximum(before[:, None] * p - q, 0.0)
            kept = kept.at[rows, i + 1].set(jnp.minimum(1.0, before * ratio))
            kept = kept.at[rows, parent].set(share(excess.sum(-1), before))
            return kept, left.at[rows, parent].set(normalised(excess))

        # Parents stand before their children, and siblings in the order in which they are tried.
        kept, left = lax.fori_loop(
            0, drafted.shape[1], enter_and_drop, (jnp.ones_like(target[:, :, 0]), target)
        )
        order = _leaves_first(tree)
        dropped = jnp.cumprod(1.0 - jnp.take_along_axis(kept, order, axis=1), axis=1)
        dropped = jnp.pad(dropped[:, :-1], ((0, 0), (1, 0)), constant_values=1.0)
        reached = jnp.take_along_axis(dropped, jnp.argsort(order, axis=1), axis=1)
        return (reached * kept)[:, :, None] * left


def _leaves_first(tree: Tree) -> Int[Array, "B S"]:
    """Window tokens in post-order: each behind its descendants and those of its earlier siblings."""
    paths = tree.paths()
    is_path = jnp.arange(paths.shape[2]) <= depths(tree.ancestors())[:, :, None]
    # What a path lacks counts as later than every token, so that descendants stand before their ancestors.
    levels = jnp.moveaxis(jnp.where(is_path, paths, tree.size), 2, 0)
    return jnp.lexsort(levels[::-1], axis=-1)


register_dataclass(TraversalVerification, [], [])
