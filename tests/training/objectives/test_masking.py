import jax
import numpy as np

from jaxmodels.training.objectives.masking import spread


def test_each_place_of_a_batch_gets_uniform_numbers():
    drawn = np.asarray(jax.vmap(lambda key: spread(key, 4))(jax.random.split(jax.random.key(0), 2000)))
    assert ((drawn >= 0) & (drawn < 1)).all()
    for place in drawn.T:
        np.testing.assert_allclose(np.quantile(place, [0.25, 0.5, 0.75]), [0.25, 0.5, 0.75], atol=0.05)
    np.testing.assert_allclose(np.diff(np.sort(drawn, axis=1)), 0.25, atol=1e-6)
