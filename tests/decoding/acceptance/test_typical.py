"""Typical acceptance against the same written out for each path."""

import numpy as np
import pytest
from acceptance_enumeration import path_of
from model_helpers import quick_jit

from jaxmodels.decoding.acceptance import TypicalAcceptance
from jaxmodels.decoding.trees import fixed_tree

PARENTS = (0, 0, 1, 1, 2, 3)


def by_hand(p, drafted, parents, threshold, scale):
    """The last accepted window token and the distribution of what follows it."""
    entropy = -(p * np.log(p + 1e-5)).sum(-1)
    least = np.minimum(threshold, scale * np.exp(-entropy))
    is_most = p == p.max(-1, keepdims=True)
    best = (0, 0.0, 0)
    for node in range(len(parents) + 1):
        path = path_of(parents, node)
        places = [(parents[n - 1], drafted[n - 1]) for n in path]
        chances = np.asarray([p[place] for place in places])
        if all(p[place] > least[place[0]] or is_most[place] for place in places):
            best = max(best, (len(path), np.log(chances).sum(), -node))
    node = -best[2]
    kept = np.where((p[node] >= least[node]) | is_most[node], p[node], 0.0)
    return node, kept / kept.sum()


@pytest.mark.parametrize("numbers", [{}, {"threshold": 0.3, "scale": 0.09}, {"threshold": 0.5, "scale": 0.9}])
def test_the_longest_path_of_typical_tokens_is_accepted(numbers):
    rng, vocab, rows = np.random.default_rng(0), 5, 64
    p = rng.dirichlet(np.full(vocab, 0.4), size=(rows, len(PARENTS) + 1)).astype(np.float32)
    drafted = rng.integers(vocab, size=(rows, len(PARENTS)))
    q = np.full((rows, len(PARENTS), vocab), 1 / vocab, np.float32)
    rule = TypicalAcceptance(**numbers)
    outcomes = np.asarray(rule.outcomes(p, q, drafted, fixed_tree(PARENTS, rows)))
    expected = np.zeros_like(outcomes)
    for b in range(rows):
        node, following = by_hand(p[b], drafted[b], PARENTS, rule.threshold, rule.scale)
        expected[b, node] = following
    np.testing.assert_allclose(outcomes, expected, atol=1e-6)
    assert len(np.unique(outcomes.sum(-1).argmax(-1))) > 2


def test_a_chain_is_accepted_up_to_its_first_untypical_token():
    p = np.asarray([[[0.8, 0.15, 0.05], [0.02, 0.9, 0.08], [0.4, 0.3, 0.3]]], np.float32)
    drafted, q = np.asarray([[1, 2]]), np.full((1, 2, 3), 1 / 3, np.float32)
    outcomes = np.asarray(quick_jit(TypicalAcceptance(threshold=0.1, scale=0.9).outcomes)(p, q, drafted))
    np.testing.assert_allclose(outcomes[0], [[0, 0, 0], [0, 1, 0], [0, 0, 0]], atol=1e-6)


@pytest.mark.parametrize(
    ("vocab", "numbers"), [(300_000, {}), (7, {"threshold": 1.0, "scale": 1.0})], ids=["wide", "highest"]
)
def test_the_most_probable_tokens_are_typical_of_a_flat_distribution(vocab, numbers):
    """The entropy's 1e-5 lifts the bound above every probability: of equal ones, all are typical then."""
    p, drafted = np.full((1, 2, vocab), 1 / vocab, np.float32), np.asarray([[3]])
    least = TypicalAcceptance(**numbers)
    entropy = -(p[0, 0].astype(np.float64) * np.log(p[0, 0] + 1e-5)).sum()
    assert min(least.threshold, least.scale * np.exp(-entropy)) > p.max()
    outcomes = np.asarray(quick_jit(least.outcomes)(p, p[:, :1], drafted))
    np.testing.assert_allclose(outcomes[0], [np.zeros(vocab), p[0, 1]], rtol=1e-3)


@pytest.mark.parametrize("numbers", [{"threshold": 1.5}, {"scale": -0.1}, {"scale": "high"}])
def test_numbers_outside_their_range_are_refused(numbers):
    (name,) = numbers
    with pytest.raises(ValueError, match=f"{name} must be a"):
        TypicalAcceptance(**numbers)
