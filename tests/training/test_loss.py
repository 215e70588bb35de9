import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit

from jaxmodels.training.loss import language_model_loss, nats_to_bits_per_byte, next_token_nats


def test_matches_the_definition():
    rng = np.random.default_rng(0)
    logits, tokens = rng.normal(size=(2, 5, 7)).astype(np.float32), rng.integers(0, 7, (2, 5))
    mask = rng.random((2, 5)) < 0.6
    probabilities = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    nats = np.array([[-math.log(probabilities[b, s, tokens[b, s + 1]]) for s in range(4)] for b in range(2)])
    np.testing.assert_allclose(next_token_nats(logits, tokens), nats, rtol=1e-5)
    loss, count = language_model_loss(logits, tokens)
    assert count == 8
    np.testing.assert_allclose(loss, nats.mean(), rtol=1e-5)
    loss, count = language_model_loss(logits, tokens, mask)
    assert count == mask[:, 1:].sum()
    np.testing.assert_allclose(loss, nats[mask[:, 1:]].mean(), rtol=1e-5)


def test_large_logits_and_low_precision_stay_finite():
    tokens = jnp.array([[0, 1, 2]])
    logits = jnp.asarray([[[0, 3e4, 0, 0]] * 3], jnp.bfloat16)
    loss, _ = quick_jit(language_model_loss)(logits, tokens)
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, 3e4 / 2, rtol=1e-2)
    slope = quick_jit(jax.grad(lambda x: language_model_loss(x, tokens)[0]))
    assert np.isfinite(slope(np.asarray(logits, np.float32))).all()


def test_nothing_predicted_is_zero_with_zero_gradient():
    tokens, logits = jnp.array([[0, 1]]), jnp.ones((1, 2, 3))
    mask = jnp.zeros((1, 2), bool)
    loss, grad = jax.value_and_grad(lambda x: language_model_loss(x, tokens, mask)[0])(logits)
    assert loss == 0
    assert not grad.any()


def test_z_loss_is_the_weighted_square_of_the_normaliser():
    tokens = jnp.array([[0, 1, 1]])
    logits = jnp.log(jnp.array([0.5, 0.5])) + jnp.array([1.0, 2.0, 3.0])[None, :, None]
    plain, _ = language_model_loss(logits, tokens)
    penalised, _ = language_model_loss(logits, tokens, z_loss=0.1)
    np.testing.assert_allclose(penalised - plain, 0.1 * (1 + 4) / 2, rtol=1e-5)


def test_bits_per_byte():
    assert nats_to_bits_per_byte(8 * math.log(2), 4) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="num_bytes must be positive, got 0"):
        nats_to_bits_per_byte(1.0, 0)
