import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit

from jaxmodels.layers.conv import causal_conv, causal_conv_tree, conv_tail, window_conv
from jaxmodels.layers.masks import BIDIRECTIONAL, CAUSAL
from jaxmodels.layers.window import fresh_window

# Parent of each token of a tree; -1 follows the history. Depths: 0 1 2 2 1 0 3 4.
PARENTS = [-1, 0, 1, 1, 0, -1, 3, 6]


tree_conv = quick_jit(causal_conv_tree)


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def branch(parents, token):
    """The tokens from the root of the tree to `token`."""
    path = []
    while token >= 0:
        path.append(token)
        token = parents[token]
    return path[::-1]


def ancestors_of(parents):
    size = len(parents)
    return np.array([[j in branch(parents, i) for j in range(size)] for i in range(size)])


def by_hand(extended, weight, bias):
    """Every output as a sum over its taps, in float64."""
    width = weight.shape[0]
    y = np.zeros((extended.shape[0], extended.shape[1] - width + 1, extended.shape[2]))
    for i in range(y.shape[1]):
        for k in range(width):
            y[:, i] += extended[:, i + k].astype(np.float64) * weight[k]
    return y if bias is None else y + bias


@pytest.mark.parametrize(
    ("width", "size", "with_bias"), [(2, 1, True), (4, 1, False), (4, 9, True), (3, 2, True)]
)
def test_against_a_sum_over_taps(width, size, with_bias):
    extended, weight = draw(2, width - 1 + size, 5), draw(width, 5, seed=1)
    bias = draw(5, seed=2) if with_bias else None
    ours = causal_conv(jnp.asarray(extended), weight, bias)
    assert ours.shape == (2, size, 5)
    np.testing.assert_allclose(ours, by_hand(extended, weight, bias), rtol=1e-5, atol=1e-6)


def test_bfloat16_is_rounded_once():
    extended, weight, bias = (jnp.asarray(a, jnp.bfloat16) for a in (draw(1, 40, 3), draw(4, 3), draw(3)))
    ours = causal_conv(extended, weight, bias)
    assert ours.dtype == jnp.bfloat16
    exact = by_hand(*(np.asarray(a, np.float32) for a in (extended, weight, bias)))
    np.testing.assert_allclose(np.asarray(ours, np.float32), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_the_tail_is_what_a_continued_window_reads(size):
    width = 4
    extended, weight = draw(size + 1, width - 1 + size, 3), draw(width, 3, seed=1)
    n = np.arange(size + 1)
    tail = quick_jit(conv_tail, static_argnums=2)(extended, n, width)
    assert tail.shape == (size + 1, width - 1, 3)
    following = draw(size + 1, 2, 3, seed=5)
    continued = causal_conv(jnp.concatenate([tail, following], axis=1), weight, None)
    for row in n:
        # The row's history and its first n tokens, then what follows, as one sequence.
        sequence = np.concatenate([extended[row, : width - 1 + row], following[row]])
        np.testing.assert_allclose(continued[row], by_hand(sequence[None], weight, None)[0, -2:], rtol=1e-5)


@pytest.mark.parametrize("width", [2, 4])
def test_a_tree_is_each_of_its_branches(width):
    size = len(PARENTS)
    extended, weight, bias = draw(1, width - 1 + size, 5), draw(width, 5, seed=1), draw(5, seed=2)
    ours = tree_conv(extended, weight, bias, ancestors_of(PARENTS)[None])
    for token in range(size):
        path = np.array(branch(PARENTS, token))
        sequence = np.concatenate([extended[:, : width - 1], extended[:, width - 1 + path]], axis=1)
        expected = by_hand(sequence, weight, bias)[:, -1]
        np.testing.assert_allclose(ours[:, token], expected, rtol=1e-5, atol=1e-6)


def test_rows_may_have_different_trees():
    trees = [[-1, 0, 1, 2], [-1, -1, 1, 0]]
    extended, weight = draw(2, 7, 3), draw(4, 3, seed=1)
    together = tree_conv(extended, weight, None, np.array([ancestors_of(t) for t in trees]))
    for row, tree in enumerate(trees):
        alone = tree_conv(extended[row : row + 1], weight, None, ancestors_of(tree)[None])
        np.testing.assert_array_equal(together[row], alone[0])
    chain = causal_conv(extended[:1], weight, None)
    np.testing.assert_allclose(together[:1], chain, rtol=1e-6, atol=1e-7)


def test_a_window_is_a_line_or_a_tree():
    size = len(PARENTS)
    extended, weight = jnp.asarray(draw(2, 2 + size, 5)), draw(3, 5, seed=1)
    ancestors = jnp.asarray(ancestors_of(PARENTS))
    tokens = jnp.zeros((2, size), jnp.int32)
    expected = {
        "line": causal_conv(extended, weight, None),
        "tree": causal_conv_tree(extended, weight, None, jnp.broadcast_to(ancestors, (2, size, size))),
    }
    for mask, name in ((CAUSAL, "line"), (BIDIRECTIONAL, "line"), (ancestors, "tree")):
        ours = window_conv(extended[:, :2], extended[:, 2:], weight, None, fresh_window(tokens, mask=mask))
        np.testing.assert_array_equal(ours, expected[name])
