"""Thresholds found on text: what they promise holds on it, and what cannot be met is told."""

import dataclasses
import math

import numpy as np
import pytest
from model_helpers import ARCHITECTURES, draw_tokens, peek_scored, random_params

from jaxmodels.decoding.depth import (
    MaxProbability,
    Patience,
    Trace,
    UntilConfident,
    threshold_for_agreement,
    thresholds_for_budget,
    trace_exits,
)

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
RNG = np.random.default_rng(0)
EXITS = (1, 3, 6)


def made_up(count=2000):
    """A trace in which sure tokens agree more often."""
    confidence = RNG.uniform(size=(count, len(EXITS))).astype(np.float32)
    return Trace(
        exits=EXITS,
        blocks=8,
        confidence=confidence,
        agrees=RNG.uniform(size=confidence.shape) < confidence**0.2,
    )


def of_exits(thresholds):
    return thresholds.values[list(EXITS)]


@pytest.mark.parametrize("budget", [2.0, 3.3, 5.0, 7.9])
def test_a_budget_is_met_and_used_up(budget):
    trace = made_up()
    found = thresholds_for_budget(trace, budget)
    assert budget - 0.02 <= trace.depths(of_exits(found)).mean() <= budget
    assert np.isinf(np.delete(found.values, EXITS)).all()


def test_the_shares_at_the_exits_are_a_geometric_sequence():
    trace = made_up(20000)
    depths = trace.depths(of_exits(thresholds_for_budget(trace, 4.0)))
    shares = np.asarray([(depths == depth).mean() for depth in (2, 4, 7, 8)])
    np.testing.assert_allclose(shares[1:] / shares[:-1], shares[1] / shares[0], rtol=0.01)


def test_a_budget_that_no_threshold_meets_names_the_nearest_that_is_met():
    with pytest.raises(ValueError, match=r"budget=1.5 blocks .*; the nearest that is met is 2"):
        thresholds_for_budget(made_up(), 1.5)


def test_equally_sure_tokens_leave_together_and_the_budget_is_kept():
    trace = Trace(
        exits=(0,), blocks=4, confidence=np.full((10, 1), 0.5, np.float32), agrees=np.ones((10, 1), bool)
    )
    for budget, depth in ((1.0, 1), (3.9, 1), (4.0, 4)):
        found = thresholds_for_budget(trace, budget).values[:1]
        assert (trace.depths(found) == depth).all()


def tail(trace, thresholds):
    """How likely so few wrong exits would be if one in twenty were wrong."""
    count = len(trace.agrees)
    wrong = round((1 - trace.agreement(thresholds)) * count)
    ways = (math.comb(count, k) for k in range(wrong + 1))
    return sum(
        math.exp(math.log(n) + k * math.log(0.05) + (count - k) * math.log(0.95)) for k, n in enumerate(ways)
    )


def test_the_threshold_for_an_agreement_passes_the_binomial_test_and_lower_ones_fail_it():
    trace = made_up()
    found = of_exits(threshold_for_agreement(trace, 0.95))
    assert len(set(found)) == 1
    assert tail(trace, found) <= 0.05 < tail(trace, found - 0.03)


def test_too_little_text_for_an_agreement_is_refused():
    with pytest.raises(ValueError, match=r"agreement=0.99: 20 tokens cannot show it .* agrees in"):
        threshold_for_agreement(made_up(20), 0.99)


@pytest.mark.parametrize("confidence", [MaxProbability(), Patience(blocks=1)], ids=["stateless", "following"])
def test_a_trace_says_where_decoding_would_leave(confidence):
    """Of windows of one token, whose histories no exit has changed."""
    tokens = draw_tokens(12, 1)
    policy = UntilConfident(confidence=confidence, threshold=0.08)
    trace = trace_exits(CONFIG, PARAMS, [np.asarray(tokens)], policy)
    ranked = np.sort(trace.confidence[:, 0])
    threshold = max(0.08, float(ranked[5:7].mean()))  # some leave behind the first block
    policy = dataclasses.replace(policy, threshold=threshold)
    _, pending = peek_scored(CONFIG, PARAMS, tokens, CONFIG.init_cache(12, 2), depth=policy)
    depths = trace.depths(np.full(2, threshold))
    assert len(np.unique(depths)) > 1
    np.testing.assert_array_equal(pending.depth[:, 0], depths)
