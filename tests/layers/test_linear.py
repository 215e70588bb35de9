"""The split matrix-vector product equals the plain one, and is only used on CPU for single tokens."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.linear import linear, vector_matrix


@pytest.mark.parametrize("shape", [(256,), (1, 256), (1, 1, 256), (2, 256), (1, 3, 256)])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_the_product(shape, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), dtype)
    w = jnp.asarray(rng.normal(size=(256, 320)) / 16, dtype)
    y = jax.jit(linear)(x, w)
    assert y.dtype == x.dtype
    assert y.shape == (*shape[:-1], 320)
    expected = np.asarray(x, np.float64) @ np.asarray(w, np.float64)
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, atol=1e-5 if dtype == "float32" else 0.05)


@pytest.mark.parametrize(("size", "d_in"), [(1, 257), (1, 8)])
def test_odd_and_small_products_are_left_alone(size, d_in):
    x, w = jnp.ones((size, d_in)), jnp.ones((d_in, 320))
    np.testing.assert_array_equal(linear(x, w), x @ w)


def batched_products(tokens: int, platform: str) -> int:
    x = jax.ShapeDtypeStruct((tokens, 256), jnp.float32)
    w = jax.ShapeDtypeStruct((256, 320), jnp.float32)
    text = jax.jit(linear).trace(x, w).lower(lowering_platforms=(platform,)).as_text()
    return text.count("batching_dims = [0] x [0]")


def test_only_single_tokens_on_cpu_are_split():
    assert batched_products(1, "cpu") == 1
    assert batched_products(2, "cpu") == 0
    assert batched_products(1, "tpu") == 0
    assert batched_products(1, "cuda") == 0


@pytest.mark.parametrize(("d_in", "pieces"), [(1536, 8), (640, 4), (200, 2), (190, 1), (257, 1)])
def test_pieces_are_even_and_not_too_small(d_in, pieces):
    text = jax.jit(vector_matrix).lower(jnp.ones((1, d_in)), jnp.ones((d_in, 400))).as_text()
    assert (f"tensor<{pieces}x{d_in // pieces}x400xf32>" in text) == (pieces > 1)
    assert ("batching_dims = [0] x [0]" in text) == (pieces > 1)


def test_gradients_pass_through():
    w = jnp.ones((256, 320))
    grad = jax.grad(lambda x: linear(x, w).sum())(jnp.ones((1, 256)))
    np.testing.assert_allclose(grad, 320.0)
