"""Conformal thresholds against their definition, and the promise they make by counting all orders."""

import itertools

import numpy as np
import pytest

from jaxmodels.decoding.thinking import conformal_threshold, premature_scores


@pytest.mark.parametrize("risk", [0.1, 0.25, 0.29, 0.5, 1.0])
@pytest.mark.parametrize("count", [9, 19, 99])
def test_the_threshold_is_the_smallest_that_enough_scores_do_not_exceed(count, risk):
    scores = np.random.default_rng(count).permutation(count) / 100
    found = conformal_threshold(scores, risk)
    # Of N + 1 texts those at most may be beyond: the new one, and every score above the threshold.
    percent = round(100 * risk)
    promised = [
        score for score in sorted(scores) if 100 * ((scores > score).sum() + 1) <= percent * (count + 1)
    ]
    assert found == promised[0]


@pytest.mark.parametrize("scores", [[1, 2, 3, 4, 5], [1, 1, 2, 2, 2], [3, 3, 3, 3, 3]])
@pytest.mark.parametrize("risk", [0.2, 0.35, 0.6])
def test_one_more_text_exceeds_it_as_seldom_as_promised(scores, risk):
    """Each of five texts is as likely to be the new one."""
    exceeded = [
        scores[new] > conformal_threshold([score for i, score in enumerate(scores) if i != new], risk)
        for new in range(5)
    ]
    assert np.mean(exceeded) <= risk
    if len(set(scores)) == 5:
        assert np.mean(exceeded) > risk - 1 / 5


def test_scores_too_few_to_tell_are_refused_and_enough_are_named():
    with pytest.raises(ValueError, match=r"risk=0.05: 18 scores cannot show it with any threshold; 19 can"):
        conformal_threshold(np.arange(18.0), 0.05)
    assert conformal_threshold(np.arange(19.0), 0.05) == 18
    with pytest.raises(ValueError, match="0 scores cannot show it with any threshold; 1 can"):
        conformal_threshold([], 1.0)
    for scores in ([np.nan, 1.0], [[1.0]]):
        with pytest.raises(ValueError, match=r"scores must be numbers \[N\]"):
            conformal_threshold(scores, 0.5)
    with pytest.raises(ValueError, match="risk must be a finite number > 0"):
        conformal_threshold([1.0], 0.0)


def test_a_text_counts_with_its_highest_premature_score():
    scores = np.asarray([[0.3, 0.9, -np.inf], [0.8, 0.2, 0.4], [-np.inf, 0.1, 0.2]])
    premature = np.asarray([[1, 0, 1], [0, 1, 1], [1, 0, 0]], bool)
    np.testing.assert_array_equal(premature_scores(scores, premature), [0.3, 0.4, 0.0])


def test_the_first_moment_above_the_threshold_is_premature_as_seldom_as_promised():
    """With each of the texts as the new one, left at its first moment above the threshold of the others."""
    random = np.random.default_rng(1)
    scores, premature = random.random((30, 6)), random.random((30, 6)) < 0.5
    highest = premature_scores(scores, premature)
    early = 0
    for new in range(30):
        threshold = conformal_threshold(np.delete(highest, new), 0.2)
        moments = itertools.compress(range(6), scores[new] > threshold)
        early += bool(premature[new, next(moments, 0)] and (scores[new] > threshold).any())
    assert 0 < early <= 0.2 * 30
