import jax
import numpy as np
import pytest
from masked_model import costs, forward, gradients, loss_of, model, nats, shown, windows

from jaxmodels.training.objectives.coupled import Coupled


@pytest.mark.parametrize("offset", [0, 1])
def test_the_published_estimator(offset):
    objective, of = Coupled(), model(offset=offset)
    example = objective.prepare(windows(prompt=4), jax.random.key(1))
    tokens, answers, first = (np.asarray(leaf) for leaf in (example.tokens, example.answers, example.masked))
    full, half, other = (
        nats(forward(of, shown(tokens, hidden)), tokens, offset)
        for hidden in (answers, first, answers & ~first)
    )
    ratio = np.asarray(example.ratio)[:, None]
    expected = answers * (full + np.where(first, half / ratio, other / (1 - ratio))) / 2
    np.testing.assert_allclose(costs(objective, of, example), expected, rtol=1e-4)
    loss, count = loss_of(objective, of, example)
    np.testing.assert_allclose(loss, expected.sum() / answers.sum(), rtol=1e-5)
    assert count == answers.sum() == 6 * 8


def test_ratios_are_within_bounds():
    example = Coupled().prepare(windows(batch=400), jax.random.key(1))
    assert 0.2 <= example.ratio.min() < 0.22 and 0.78 < example.ratio.max() <= 0.8
    assert not (np.asarray(example.masked) & ~np.asarray(example.answers)).any()


def test_gradients_are_finite():
    grads = gradients(Coupled(), model())
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(grads))


def test_bad_input_is_named():
    with pytest.raises(ValueError, match="Coupled: low must be"):
        Coupled(low=0)
    with pytest.raises(ValueError, match="Coupled: high must be"):
        Coupled(low=0.5, high=0.4)
