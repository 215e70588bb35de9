"""Trees of drafted tokens: which of them follows which, as the windows that verify them need it.

A window is the newest token, at index 0, and the drafted tokens behind it. The root of the tree is the newest
token; every drafted token stands behind its parent. A chain is the tree in which each follows the one before.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Bool, Int


@dataclass(frozen=True)
class Fork:
    """Paths that were drafted independently of one another behind a trunk that they share.

    The drafted tokens are those of the trunk, then the first ones of all paths, then their second ones.

    Attributes:
        trunk: tokens of the trunk, 0 for none.
        paths: how many paths there are.
        length: tokens of each path.
    """

    trunk: int
    paths: int
    length: int

    @property
    def size(self) -> int:
        """All drafted tokens."""
        return self.trunk + self.paths * self.length

    def level(self, i: int) -> slice:
        """Which drafted tokens are number i of the paths, in the order of the paths."""
        start = self.trunk + i * self.paths
        return slice(start, start + self.paths)


@struct.dataclass
class Tree:
    """The parents of drafted tokens.

    Attributes:
        parents: i32[B, G], the window index of each drafted token's parent, less than its own. 0 is the
            newest token; drafted token i has window index ``i + 1``.
        depth: drafted tokens on the longest path.
        siblings: children that any token has at most.
        fork: set where the tokens were drafted as independent paths, as `forked_tree` joins them.
    """

    parents: jax.Array
    depth: int = struct.field(pytree_node=False)
    siblings: int = struct.field(pytree_node=False)
    fork: Fork | None = struct.field(pytree_node=False, default=None)

    @property
    def size(self) -> int:
        """Tokens of the window: the drafted ones and the newest."""
        return self.parents.shape[1] + 1

    def ancestors(self) -> Bool[Array, "B S S"]:
        """Whether window token j is token i or an ancestor of it, at [i, j]."""
        itself = jnp.broadcast_to(
            jnp.eye(self.size, dtype=bool), (self.parents.shape[0], self.size, self.size)
        )
        parents = jnp.pad(self.parents, ((0, 0), (1, 0)))[..., None]
        seen = itself
        for _ in range(self.depth):
            seen = itself | jnp.take_along_axis(seen, parents, axis=1)
        return seen

    def children(self, rank: int) -> Int[Array, "B S"]:
        """Which drafted token is the child of this rank (0 is the first) of each window token; G for none."""
        drafted = self.size - 1
        same = self.parents[:, :, None] == self.parents[:, None, :]
        ranks = (same & jnp.tril(jnp.ones((drafted, drafted), bool), -1)).sum(-1)
        at = (self.parents[:, None, :] == jnp.arange(self.size)[:, None]) & (ranks == rank)[:, None, :]
        return jnp.where(at.any(-1), jnp.argmax(at, axis=-1), drafted)

    def paths(self) -> Int[Array, "B S P"]:
        """The window indices from the root to each window token; entries behind it are other tokens."""
        order = jnp.argsort(~self.ancestors(), axis=-1, stable=True)
        return order[:, :, : self.depth + 1].astype(jnp.int32)

    def path_to(self, node: Int[Array, "B"]) -> Int[Array, "B P"]:
        """That of one window token per row."""
        return jnp.take_along_axis(self.paths(), node[:, None, None], axis=1)[:, 0]


def depths(ancestors: Bool[Array, "B S S"]) -> Int[Array, "B S"]:
    """How many drafted tokens lead to each window token, itself included; 0 for the root."""
    return ancestors.sum(-1, dtype=jnp.int32) - 1


def chain_tree(drafted: Int[Array, "B G"]) -> Tree:
    """The tree in which each drafted token follows the one before."""
    return fixed_tree(range(drafted.shape[1]), drafted.shape[0])


def fixed_tree(parents: Sequence[int], batch: int) -> Tree:
    """The same tree in every row.

    Raises:
        ValueError: there is no parent, or one does not stand before its child.
    """
    if not parents or any(not 0 <= parent <= child for child, parent in enumerate(parents)):
        raise ValueError(
            f"parents={tuple(parents)} must hold, for each drafted token i, the window index of its parent, "
            "from 0 (the newest token) to i"
        )
    level = [0]
    for parent in parents:
        level.append(level[parent] + 1)
    rows = jnp.broadcast_to(jnp.asarray(parents, jnp.int32), (batch, len(parents)))
    return Tree(parents=rows, depth=max(level), siblings=int(np.bincount(parents).max()))


def forked_tree(drafted: Int[Array, "B G"], fork: Fork) -> Tree:
    """The tree of independent paths, in which paths with the same beginning have it in common.

    A token that an earlier path has in the same place is a leaf; what follows it follows the earlier one. It
    stays as a sibling, since rules must know how often a token was drawn.
    """
    batch = drafted.shape[0]
    parents = [jnp.broadcast_to(jnp.arange(fork.trunk), (batch, fork.trunk))]
    begins = jnp.ones((batch, fork.paths, fork.paths), bool)  # whether two paths are the same so far
    nodes = jnp.full((batch, fork.paths), fork.trunk)
    for i in range(fork.length):
        parents.append(nodes)
        at = fork.level(i)
        tokens = drafted[:, at]
        begins = begins & (tokens[:, :, None] == tokens[:, None, :])
        nodes = at.start + 1 + jnp.argmax(begins, axis=2)
    return Tree(
        parents=jnp.concatenate(parents, axis=1).astype(jnp.int32),
        depth=fork.trunk + fork.length,
        siblings=fork.paths,
        fork=fork,
    )
