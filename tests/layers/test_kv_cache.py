import jax.numpy as jnp
import numpy as np

from jaxmodels.layers.kv_cache import take_slots

RNG = np.random.default_rng(0)
BATCH, SLOTS = 3, 11
BUFFER = RNG.standard_normal((BATCH, 2, SLOTS, 4)).astype(np.float32)


def test_slots_are_taken_in_any_order():
    slots = np.asarray([[3, 3], [0, 10], [5, 4]])
    expected = np.stack([BUFFER[row][:, slots[row]] for row in range(BATCH)])
    np.testing.assert_array_equal(take_slots(jnp.asarray(BUFFER), jnp.asarray(slots)), expected)
