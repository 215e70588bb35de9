import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.decoding.bisection import least_float, least_int

INF = np.float32(np.inf)


def test_the_least_float_is_found_exactly():
    tiny = np.finfo(np.float32).smallest_subnormal
    wanted = np.array([-INF, -3e38, -1.5, -tiny, 0.0, tiny, 1.0, np.nextafter(np.float32(1), INF), 3e38, INF])
    wanted = wanted.astype(np.float32)
    low, high = jnp.full(wanted.shape, -INF), jnp.full(wanted.shape, INF)
    # Compared as numpy does: XLA takes subnormal numbers for 0.
    with jax.disable_jit():
        found = least_float(low, high, lambda x: jnp.asarray(np.asarray(x) >= wanted))
    np.testing.assert_array_equal(found, wanted)


def test_where_nothing_holds_the_upper_bound_is_given():
    zero = jnp.zeros(2)
    found = jax.jit(lambda low, high: least_float(low, high, lambda x: x < low))(zero, zero + 2.5)
    np.testing.assert_array_equal(found, 2.5)


def test_the_least_integer_between_any_bounds():
    wanted = jnp.array([-(2**31), -1, 0, 7, 2**31 - 1], jnp.int32)
    low, high = jnp.full_like(wanted, -(2**31)), jnp.full_like(wanted, 2**31 - 1)
    np.testing.assert_array_equal(least_int(low, high, lambda x: x >= wanted), wanted)
    near = jnp.arange(9, dtype=jnp.int32)
    np.testing.assert_array_equal(least_int(0 * near, 0 * near + 8, lambda x: x >= near), near)
