import jax.numpy as jnp
import moe_oracle
import numpy as np
import pytest
from model_helpers import random_params

from jaxmodels.layers.moe import RMSRouter

D, E = 10, 5


def test_against_its_definition():
    router = RMSRouter(d_model=D, num_experts=E, top_k=2, eps=1e-2)
    params = random_params(router.spec())
    x = np.random.default_rng(0).standard_normal((2, 7, D))
    routing = router(params, jnp.asarray(x, jnp.float32))
    p = moe_oracle.in_float64(params)
    features = x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-2) * p["scale"] / np.sqrt(D)
    probabilities = moe_oracle.softmax(features @ p["w"].T)
    best = np.argsort(-probabilities, axis=-1)[..., :2]
    np.testing.assert_array_equal(routing.experts, best)
    chosen = np.take_along_axis(probabilities, best, axis=-1)
    expected = chosen / chosen.sum(-1, keepdims=True) * p["expert_scale"][best]
    np.testing.assert_allclose(routing.weights, expected, rtol=1e-5)
    np.testing.assert_allclose(routing.scores, probabilities, rtol=1e-5)


def test_more_experts_than_there_are_cannot_be_chosen():
    with pytest.raises(ValueError, match="RMSRouter: top_k must be between 1 and num_experts=5, got 6"):
        RMSRouter(d_model=D, num_experts=E, top_k=6)
