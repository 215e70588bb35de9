"""The moving average of parameters against the recurrence in NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxmodels.training.average import averaged


def test_the_average_follows_the_parameters():
    optimizer, decay = averaged(optax.sgd(0.1), 0.5), 0.5
    params = {"w": jnp.arange(3.0) + 5}
    state = optimizer.init(params)
    expected = plain = np.arange(3.0) + 5
    for n in range(8):
        gradient = np.full(3, n + 1.0, np.float32)
        updates, state = jax.jit(optimizer.update)({"w": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
        plain = plain - 0.1 * gradient
        kept = min(decay, (1 + n) / (10 + n))
        expected = kept * expected + (1 - kept) * plain
        np.testing.assert_allclose(params["w"], plain, rtol=1e-6)
        np.testing.assert_allclose(state.average["w"], expected, rtol=1e-6)
