import math

import jax
import numpy as np
import pytest
from bounded_by_hand import by_hand, cosines
from cache_helpers import close, draw, run_commit, start
from model_helpers import attention, random_params

from jaxmodels.layers.cache.d2o import D2O, layer_budgets
from jaxmodels.layers.kv_cache import EMPTY
from jaxmodels.layers.masks import BIDIRECTIONAL

POLICY = D2O(budget=10, recent=3, sinks=2, spare=1, longest_peek=6)
LAYER = attention(sink_logits=True, cache=POLICY)
PARAMS = random_params(LAYER.spec())
X = draw(2, 36)
BATCHED = D2O(budget=10, recent=3, sinks=2, spare=4, smoothing=0.7, longest_peek=6)


def evictor(policy):
    """Eviction and merging by the definition."""

    def evict(head):
        if len(head.k) < policy.budget + policy.spare:
            return
        newest = head.positions.max()
        protected = (head.positions < policy.sinks) | (head.positions > newest - policy.recent)
        best = np.argsort(-np.where(protected, np.inf, head.mass), kind="stable")[: policy.budget]
        kept, lost = np.sort(best), np.setdiff1d(np.arange(len(head.k)), best)
        similarity = cosines(head.k[lost], head.k[kept])
        u, nearest = similarity.max(1), similarity.argmax(1)
        before = getattr(head, "threshold", None)
        s = policy.smoothing
        head.threshold = u.mean() if before is None else (1 - s) * before + s * u.mean()
        merged = u >= head.threshold
        head.merges = getattr(head, "merges", 0) + merged.sum()
        head.losses = getattr(head, "losses", 0) + len(lost)
        k, v = head.k[lost], head.v[lost]
        head.keep(kept)
        for name, evicted in (("k", k), ("v", v)):
            buffer, new = getattr(head, name), getattr(head, name).copy()
            for slot in range(len(kept)):
                into = merged & (nearest == slot)
                w = np.exp(u[into])
                new[slot] = (math.e * buffer[slot] + w @ evicted[into]) / (math.e + w.sum())
            setattr(head, name, new)

    return evict


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("policy", [POLICY, BATCHED], ids=["one by one", "four together"])
@pytest.mark.parametrize("parts", [[6, 6, *[1] * 24], [4, 1, 1, 6, 3, 1, 1, 1, 6, 6, 2, 1, 1, 2]])
def test_against_the_definition(policy, parts):
    layer = attention(sink_logits=True, cache=policy)
    ours, stream = start(layer, PARAMS, capacity=1000).feed(X, parts)
    assert stream.state.slots.k.shape[2] == policy.slots
    for row in range(2):
        expected, heads = by_hand(layer, PARAMS, X[row], parts, evictor(policy))
        close(ours[row], expected)
        assert all(0 < head.merges < head.losses for head in heads)
        for i, head in enumerate(heads):
            used = len(head.k)
            assert stream.state.slots.used[row] == used
            np.testing.assert_array_equal(stream.state.slots.positions[row, i, :used], head.positions)
            assert (stream.state.slots.positions[row, i, used:] == EMPTY).all()
            close(stream.state.mass[row, i, :used], head.mass)
            close(stream.state.threshold[row, i], head.threshold)


def test_until_the_budget_is_reached_nothing_changes():
    for capacity in (10, 1000):
        ours, _ = start(LAYER, PARAMS, capacity=capacity).feed(X[:, :10], [6, 1, 1, 2])
        close(ours, start(attention(sink_logits=True), PARAMS).feed(X[:, :10], [6, 1, 1, 2])[0])


def states_agree(ours, expected):
    """All that later tokens read: what slots without a tag hold does not matter."""
    tagged = np.asarray(ours.slots.positions) != EMPTY
    np.testing.assert_array_equal(ours.slots.positions, expected.slots.positions)
    np.testing.assert_array_equal(ours.slots.used, expected.slots.used)
    for a, b in ((ours.slots.k, expected.slots.k), (ours.slots.v, expected.slots.v)):
        close(a[tagged], b[tagged])
    close(ours.mass, expected.mass)
    close(ours.threshold, expected.threshold)


def test_rejected_tokens_leave_no_trace():
    """One row may have to evict while the other does not."""
    _, stream = start(LAYER, PARAMS, capacity=1000).feed(X, [6, 3])
    window = draw(2, 4, seed=7)
    _, pending = stream.peek(window)
    for n in np.array([(0, 4), (4, 0), (1, 3), (2, 2)], np.int32):
        settled = run_commit(LAYER, stream.peek(window, valid=n)[1])
        states_agree(run_commit(LAYER, pending, n), settled)
        for row in np.flatnonzero(n == 0):
            before, after = (jax.tree.map(lambda a, row=row: a[row], s) for s in (stream.state, settled))
            np.testing.assert_array_equal(after.slots.positions, before.slots.positions)
            np.testing.assert_array_equal(after.mass, before.mass)


def test_a_path_through_a_tree():
    tree = np.array([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], bool)
    _, stream = start(LAYER, PARAMS, capacity=1000).feed(X, [6, 3])
    window, path = draw(2, 4, seed=7), np.array([[0, 1, 3], [0, 2, 0]])
    _, pending = stream.peek(window, positions=stream.length[:, None] + [0, 1, 1, 2], mask=tree)
    n = np.array([3, 2], np.int32)
    branches = np.stack([window[row][path[row]] for row in range(2)])
    expected = run_commit(LAYER, stream.peek(branches, valid=n)[1])
    states_agree(run_commit(LAYER, pending, n, path), expected)


@pytest.mark.parametrize("mask", [{"kind": BIDIRECTIONAL}, {"mask": np.ones((4, 4), bool)}], ids=str)
def test_a_part_of_a_window_that_sees_both_ways(mask):
    _, stream = start(LAYER, PARAMS, capacity=1000).feed(X, [6, 3])
    window, n = draw(2, 4, seed=7), np.array([4, 2], np.int32)
    _, pending = stream.peek(window, **mask)
    _, settled = stream.peek(window, valid=n, **mask)
    states_agree(run_commit(LAYER, pending, n), run_commit(LAYER, settled))
    causal = run_commit(LAYER, stream.peek(window, valid=n)[1])
    assert np.abs(causal.mass - run_commit(LAYER, settled).mass).max() > 1e-3


def test_budgets_follow_the_spread_of_attention():
    budgets = layer_budgets([0.0, 0.5, 1.0], 100, least=4)
    weights = np.exp([-0.0, -0.5, -1.0])
    assert budgets == tuple(np.round(300 * weights / weights.sum()).astype(int))
    assert layer_budgets([0.0, 9.0], 10, least=4) == (20, 4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget": 0}, "budget=0 must be at least 1"),
        ({"sinks": 0}, "sinks=0 must be at least 1"),
        ({"spare": 0}, "spare=0 must be at least 1"),
        ({"recent": 9}, "sinks=4 and recent=9 must fit budget=12"),
        ({"smoothing": 0.0}, r"smoothing=0.0 must lie in \(0, 1\]"),
    ],
)
def test_what_does_not_fit_is_refused(values, message):
    with pytest.raises(ValueError, match=message):
        D2O(**({"budget": 12, "recent": 4} | values))


def test_windows_longer_than_the_room_for_them_are_refused():
    with pytest.raises(ValueError, match="window of 7 tokens is longer than D2O's longest_peek=6"):
        start(LAYER, PARAMS).peek(X[:, :7])
