"""Policies of thinking by themselves: their scores along a path, and what they refuse."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import entropy

from jaxmodels.decoding.thinking import AtTokens, EveryTokens, PathDeviation, Probe, Thought


def test_the_deviation_is_the_recent_frequency_of_turns_over_that_of_the_whole_path():
    random = np.random.default_rng(0)
    logits = random.standard_normal((20, 3, 12)) * random.uniform(0.5, 6, (20, 3, 1))
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    turns = entropy(p, axis=-1) > 1.2
    turns[:, 2], logits[:, 2] = False, np.eye(12)[0] * 99  # a row that takes none
    policy = PathDeviation(threshold=2.0, entropy=1.2, window=4, moments=AtTokens((5,)))
    notes = policy.begin(3)
    for step in range(20):
        token = jnp.asarray([5, 5 if step % 3 else 6, 5])
        thought = Thought(
            token=token, count=jnp.full(3, step + 1), logits=jnp.asarray(logits[step]), streams={}
        )
        score, notes = policy.look(thought, notes)
        seen = turns[: step + 1]
        for row in range(3):
            if step < 3 or token[row] != 5:
                assert score[row] == -np.inf
            else:
                wanted = seen[-4:, row].mean() / seen[:, row].mean() if seen[:, row].any() else 0.0
                np.testing.assert_allclose(score[row], wanted, rtol=1e-5)
    assert turns[:, :2].any() and not turns[:, :2].all()


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (lambda: PathDeviation(threshold=-1.0, entropy=1.0, window=4), "threshold must be a finite number"),
        (lambda: PathDeviation(threshold=2.0, entropy=1.0, window=0), "window must be a whole number >= 1"),
        (lambda: EveryTokens(0), "count must be a whole number >= 1"),
        (lambda: AtTokens(()), "tokens must be a sequence of at least one token id"),
        (
            lambda: Probe(weights=(jnp.ones((4, 2)),), biases=(jnp.ones(2),), threshold=0.5),
            r"the last with one output, and biases \[outputs\], got \[\[4, 2\]\] and \[\[2\]\]",
        ),
        (
            lambda: Probe(weights=(jnp.ones((4, 1)),), biases=(jnp.ones(1),), threshold=2.0),
            "threshold must be a finite number >= 0 and <= 1, got 2.0",
        ),
        (
            lambda: Probe(weights=(jnp.ones((4, 1)),), biases=(jnp.ones(1),), threshold=0.5, moments=3),
            r"moments must be one such as AtTokens\(\(5, 9\)\), got 3",
        ),
    ],
)
def test_values_out_of_range_are_refused(made, message):
    with pytest.raises(ValueError, match=message):
        made()
