"""Greedy acceptance, where no rule is asked: what is accepted is what equals."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from jaxmodels.decoding.trees import Tree, depths


def longest_agreement(
    choices: Int[Array, "B G+1"],
    drafted: Int[Array, "B G"],
    count: Int[Array, "B"],
    tree: Tree | None = None,
) -> Int[Array, "B"]:
    """Greedy acceptance: the window token at the end of the longest path that the model would have chosen.

    choices: the model's choice behind each window token. count: how many drafted tokens are there.
    """
    there = jnp.arange(drafted.shape[1]) < count[:, None]
    if tree is None:
        return jnp.cumprod(there & (drafted == choices[:, :-1]), axis=1).sum(1, dtype=jnp.int32)
    agrees = there & (drafted == jnp.take_along_axis(choices, tree.parents, axis=1))
    agrees = jnp.pad(agrees, ((0, 0), (1, 0)), constant_values=True)
    ancestors = tree.ancestors()
    accepted = (~ancestors | agrees[:, None, :]).all(-1)
    return jnp.argmax(jnp.where(accepted, depths(ancestors), -1), axis=-1).astype(jnp.int32)
