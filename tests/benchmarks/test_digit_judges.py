"""The judges of drawn digits: the distance against scipy and closed forms, both on spoilt real digits."""

import numpy as np
import pytest
from scipy.linalg import sqrtm
from sklearn.neural_network import MLPClassifier

from benchmarks.digit_judges import digit_judge, features, frechet_distance
from jaxmodels.training.images.digits import load_digits

RNG = np.random.default_rng(0)


def test_the_distance_is_the_definition():
    one = RNG.standard_normal((200, 5)) @ RNG.standard_normal((5, 5)) + 1
    other = RNG.standard_normal((300, 5)) @ RNG.standard_normal((5, 5))
    c, c_ = np.cov(one.T), np.cov(other.T)
    apart = ((one.mean(0) - other.mean(0)) ** 2).sum()
    expected = apart + np.trace(c + c_ - 2 * sqrtm(c @ c_).real)
    assert frechet_distance(one, other) == pytest.approx(expected, rel=1e-8)
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-8)
    assert frechet_distance(one + 2, one) == pytest.approx(5 * 4, rel=1e-8)


def test_the_distance_bears_features_that_are_never_on():
    one = RNG.standard_normal((50, 4)) * [1, 0, 2, 0]
    assert frechet_distance(one, 2 * one) == pytest.approx(
        (one.mean(0) ** 2).sum() + np.cov(one.T).trace(), rel=1e-8
    )


def test_features_are_the_last_hidden_layer():
    x, y = RNG.standard_normal((40, 6)), np.arange(40) % 3
    network = MLPClassifier((7, 5), max_iter=300, random_state=0).fit(x, y)
    logits = features(network, x) @ network.coefs_[-1] + network.intercepts_[-1]
    np.testing.assert_array_equal(network.classes_[logits.argmax(1)], network.predict(x))


@pytest.mark.sweep
def test_real_digits_are_recognised_and_spoilt_ones_are_far():
    judge, (train, held_out) = digit_judge(), load_digits(16)
    assert judge.recognised(held_out.images / 2 + 0.5, held_out.labels) >= 0.985
    seen = judge.distance(train.images / 2 + 0.5)
    assert seen < 2
    assert judge.distance(train.images[train.labels != 3] / 2 + 0.5) > 2 * seen
    blurred = 0.5 * train.images + 0.5 * np.roll(train.images, 3, 1)
    assert judge.distance(blurred / 2 + 0.5) > 10 * seen
