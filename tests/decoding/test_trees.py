"""Trees of drafted tokens against the same written out with lists."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.decoding.trees import Fork, Tree, depths, fixed_tree, forked_tree

PARENTS = [0, 0, 1, 1, 3, 2]  # window tokens 1 to 6
PATHS = [[0], [0, 1], [0, 2], [0, 1, 3], [0, 1, 4], [0, 1, 3, 5], [0, 2, 6]]


def test_paths_depths_and_ancestors():
    tree = fixed_tree(PARENTS, 2)
    assert (tree.size, tree.depth, tree.siblings) == (7, 3, 2)
    expected = np.zeros((7, 7), bool)
    for node, path in enumerate(PATHS):
        expected[node, path] = True
    ancestors = tree.ancestors()
    np.testing.assert_array_equal(ancestors, np.broadcast_to(expected, (2, 7, 7)))
    np.testing.assert_array_equal(depths(ancestors)[0], [len(path) - 1 for path in PATHS])
    for node, path in enumerate(PATHS):
        found = tree.path_to(jnp.asarray([node, 0]))
        assert found.shape == (2, 4)
        assert found[0, : len(path)].tolist() == path
        assert found[1, 0] == 0


def test_children_by_rank():
    tree = fixed_tree(PARENTS, 1)
    assert tree.children(0).tolist() == [[0, 2, 5, 4, 6, 6, 6]]
    assert tree.children(1).tolist() == [[1, 3, 6, 6, 6, 6, 6]]


def test_rows_may_have_trees_of_their_own():
    tree = Tree(parents=jnp.asarray([[0, 1, 2], [0, 0, 0]]), depth=3, siblings=3)
    np.testing.assert_array_equal(depths(tree.ancestors()), [[0, 1, 2, 3], [0, 1, 1, 1]])
    assert tree.children(2).tolist() == [[3, 3, 3, 3], [2, 3, 3, 3]]


def test_paths_that_begin_alike_have_their_beginning_in_common():
    """Behind a trunk of one: 1-1, 2-3, 1-4 and 1-1, of which the first, third and last begin with the 1."""
    fork = Fork(trunk=1, paths=4, length=2)
    assert (fork.size, fork.level(0), fork.level(1)) == (9, slice(1, 5), slice(5, 9))
    tree = forked_tree(jnp.asarray([[9, 1, 2, 1, 1, 1, 3, 4, 1], [9, 1, 2, 3, 4, 0, 0, 0, 0]]), fork)
    assert (tree.size, tree.depth, tree.siblings) == (10, 3, 4)
    assert tree.parents.tolist() == [[0, 1, 1, 1, 1, 2, 3, 2, 2], [0, 1, 1, 1, 1, 2, 3, 4, 5]]


@pytest.mark.parametrize("parents", [[], [1], [0, 3], [0, -1]])
def test_parents_stand_before_their_children(parents):
    with pytest.raises(ValueError, match="must hold, for each drafted token i, the window index"):
        fixed_tree(parents, 1)
