"""Every prediction type read as clean data, noise and flow, in several noise schedules."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.decoding.diffusion.prediction import Predicted, Prediction, target

CLEAN, NOISE = np.random.default_rng(0).normal(size=(2, 2, 3, 3, 4))
PATHS = {
    "preserving": (0.6, 0.8),
    "exploding": (1.0, 7.0),
    "straight": (0.3, 0.7),
    "edm": (0.5, 3.0),
    "no data left": (0.0, 1.0),
}


# Noise alone says nothing of the data where nothing of them is left.
CASES = [
    (kind, path)
    for kind in Prediction
    for path in PATHS
    if (kind, path) != (Prediction.EPSILON, "no data left")
]


def output_of(kind: Prediction, alpha: float, sigma: float) -> np.ndarray:
    velocity = (alpha * NOISE - sigma * CLEAN) / np.hypot(alpha, sigma)
    return {
        Prediction.EPSILON: NOISE,
        Prediction.CLEAN: CLEAN,
        Prediction.FLOW: NOISE - CLEAN,
        Prediction.FLOW_TO_DATA: CLEAN - NOISE,
        Prediction.V: velocity,
        Prediction.EDM: -velocity,
    }[kind]


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_every_kind_gives_clean_data_noise_and_flow(kind: Prediction, path: str) -> None:
    alpha, sigma = PATHS[path]
    output = output_of(kind, alpha, sigma)
    x = alpha * CLEAN + sigma * NOISE
    predicted = Predicted(
        jnp.concatenate([output, output], -1), jnp.asarray(x), jnp.asarray(alpha), jnp.asarray(sigma), kind
    )
    np.testing.assert_allclose(predicted.clean(), CLEAN, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(predicted.noise(), NOISE, rtol=1e-5, atol=2e-5)
    np.testing.assert_allclose(predicted.flow(), NOISE - CLEAN, rtol=1e-5, atol=4e-5)
    np.testing.assert_array_equal(predicted.extra(), np.float32(output))


@pytest.mark.parametrize(
    ("kind", "read"),
    [
        (Prediction.EPSILON, Predicted.noise),
        (Prediction.CLEAN, Predicted.clean),
        (Prediction.FLOW, Predicted.flow),
    ],
)
def test_what_a_model_gives_is_handed_on_as_it_is(kind: Prediction, read) -> None:
    output = jnp.asarray(NOISE)
    predicted = Predicted(output, jnp.asarray(CLEAN), jnp.asarray(0.1), jnp.asarray(0.9), kind)
    np.testing.assert_array_equal(read(predicted), output)


@pytest.mark.parametrize(("kind", "path"), CASES)
def test_what_should_be_predicted_is_read_as_what_it_was_made_of(kind: Prediction, path: str) -> None:
    alpha, sigma = map(jnp.float32, PATHS[path])
    wanted = target(kind, CLEAN, NOISE, alpha, sigma)
    predicted = Predicted(wanted, alpha * CLEAN + sigma * NOISE, alpha, sigma, kind)
    np.testing.assert_allclose(predicted.clean(), CLEAN, atol=1e-4)
