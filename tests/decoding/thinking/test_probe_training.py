"""The probe's training: it finds what separates the moments, on inputs of any scale."""

import jax.numpy as jnp
import numpy as np
import pytest
from strategy_helpers import PROMPTS, architecture

from jaxmodels.decoding.thinking import Probe, Thought
from jaxmodels.decoding.thinking.probe_training import ProbeTraining, thinking_features

SCALE, SHIFT = np.asarray([100.0, 0.01, 1.0, 5.0]), np.asarray([400.0, -3.0, 0.0, 2.0])
TESTED = {"hidden": (), "steps": 200, "learning_rate": 0.05}


def moments(count, seed):
    """Features that rightness depends on in sum, and a constant; few moments are right."""
    noise = np.random.default_rng(seed).standard_normal((count, 4)) * [1, 1, 1, 0]
    return (noise * SCALE + SHIFT).astype(np.float32), noise[:, 0] - noise[:, 1] > 1.2


def probabilities(layers, features):
    weights, biases = layers
    probe = Probe(weights=weights, biases=biases, threshold=0.5)
    seen = jnp.asarray(features)
    thought = Thought(
        token=jnp.zeros(len(seen), jnp.int32),
        count=jnp.ones(len(seen), jnp.int32),
        logits=jnp.zeros((len(seen), 2)),
        streams={"hidden": seen},
    )
    return np.asarray(probe.probability(thought))


@pytest.mark.parametrize("hidden", [(), pytest.param((16, 8), marks=pytest.mark.sweep)])
def test_a_probe_tells_right_from_wrong_on_moments_that_it_has_not_seen(hidden):
    training = ProbeTraining(**(TESTED | {"hidden": hidden}))
    features, is_right = moments(400, 1)
    found = probabilities(training.fit(*moments(400, 0)), features) > 0.5
    assert 0.1 < is_right.mean() < 0.3
    assert found[is_right].mean() > 0.9 and found[~is_right].mean() < 0.1


def test_the_scale_of_the_inputs_does_not_matter():
    features, is_right = moments(50, 0)
    plain = ((features - SHIFT) / SCALE).astype(np.float32)
    training = ProbeTraining(**TESTED)
    scaled, unscaled = (probabilities(training.fit(seen, is_right), seen) for seen in (features, plain))
    np.testing.assert_allclose(scaled, unscaled, atol=5e-3)


def test_features_are_the_streams_that_decoding_sees():
    config, params = architecture("attention")
    features = thinking_features(config, params, ("embeddings", "hidden"), PROMPTS)
    embedded = np.asarray(params["embed"]["weight"])[PROMPTS[0]]
    np.testing.assert_allclose(features[0, : len(PROMPTS[0]), : embedded.shape[1]], embedded, rtol=1e-5)
    assert features.shape[-1] == 2 * embedded.shape[1]


def test_moments_of_one_kind_are_refused():
    features, _ = moments(5, 0)
    with pytest.raises(ValueError, match="is_right must hold right and wrong moments, got 5 right ones of 5"):
        ProbeTraining(**TESTED).fit(features, np.ones(5, bool))
    with pytest.raises(ValueError, match=r"features must be \[N, F\] and is_right \[N\], got \[5, 4\] and"):
        ProbeTraining(**TESTED).fit(features, np.ones(4, bool))
