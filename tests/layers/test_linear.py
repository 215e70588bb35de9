"""The product is the same in every form, and only few rows on CPU get another than the plain one."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.backends import BACKENDS
from jaxmodels.layers.linear import FEW_ROWS, by_outputs, linear


@pytest.mark.parametrize(
    "shape", [(256,), (1, 256), (1, 1, 256), (2, 256), (1, 3, 256), (4, 5, 256), (129, 256)]
)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_equals_the_product(shape, dtype):
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=shape), dtype)
    w = jnp.asarray(rng.normal(size=(320, 256)) / 16, dtype)
    y = jax.jit(linear)(x, w)
    assert y.dtype == x.dtype
    assert y.shape == (*shape[:-1], 320)
    expected = np.asarray(x, np.float64) @ np.asarray(w, np.float64).T
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, atol=1e-5 if dtype == "float32" else 0.05)


@pytest.mark.parametrize("rows", [1, 3, 40])
def test_output_axes_are_those_of_the_weight(rows):
    rng = np.random.default_rng(0)
    x, w = rng.normal(size=(rows, 7, 256)), rng.normal(size=(4, 80, 256)) / 16
    y = linear(jnp.asarray(x, jnp.float32), jnp.asarray(w, jnp.float32))
    np.testing.assert_allclose(y, np.einsum("bsd,nhd->bsnh", x, w), atol=1e-4)


@pytest.mark.parametrize(("size", "d_out"), [(1, 257), (1, 8), (0, 320)])
def test_odd_and_small_products_are_left_alone(size, d_out):
    x, w = jnp.ones((size, 320)), jnp.ones((d_out, 320))
    np.testing.assert_array_equal(linear(x, w), x @ w.T)


def lowered(rows: int, platform: str) -> str:
    x = jax.ShapeDtypeStruct((rows, 256), jnp.float32)
    w = jax.ShapeDtypeStruct((320, 256), jnp.float32)
    return jax.jit(linear).trace(x, w).lower(lowering_platforms=(platform,)).as_text()


def test_only_few_rows_on_cpu_are_multiplied_otherwise():
    assert "batching_dims = [0] x [0]" in lowered(1, "cpu")
    assert "tensor<320x256xf32>, tensor<256x4xf32>" in lowered(2, "cpu")
    assert "tensor<320x256xf32>, tensor<256x128xf32>" in lowered(127, "cpu")
    for rows, platform in ((129, "cpu"), (2, "tpu"), (1, "cuda"), (2, "cuda")):
        assert f"tensor<{rows}x256xf32>, tensor<320x256xf32>" in lowered(rows, platform)


def test_a_single_row_is_one_of_a_tile_on_tpu():
    assert "tensor<8x256xf32>, tensor<320x256xf32>" in lowered(1, "tpu")


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("shape", [(256,), (1, 1, 256), (2, 256), (4, 32, 256)])
@pytest.mark.parametrize("d_out", [320, 8])
def test_every_backends_form_equals_the_portable_one(backend, shape, d_out):
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=s), jnp.float32) for s in (shape, (d_out, 256)))
    y = jax.jit(FEW_ROWS.form(backend))(x, w)
    assert y.shape == (*shape[:-1], d_out)
    np.testing.assert_allclose(y, FEW_ROWS.portable(x, w), rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("d_out", "cores", "pieces"),
    [(1536, 2, 8), (160, 2, 4), (62, 2, 1), (257, 2, 1), (1536, 12, 16), (1536, 16, 16)],
)
def test_pieces_are_even_and_not_too_small(monkeypatch, d_out, cores, pieces):
    monkeypatch.setattr("os.cpu_count", lambda: cores)
    traced_anew = jax.jit(functools.partial(by_outputs))  # for this number of cores
    text = traced_anew.lower(jnp.ones((1, 400)), jnp.ones((d_out, 400))).as_text()
    assert (f"tensor<{pieces}x{d_out // pieces}x400xf32>" in text) == (pieces > 1)
    assert ("batching_dims = [0] x [0]" in text) == (pieces > 1)


@pytest.mark.parametrize("rows", [1, 5])
def test_gradients_pass_through(rows):
    x, w = jnp.ones((rows, 256)), jnp.ones((320, 256))
    of_x, of_w = jax.grad(lambda x, w: linear(x, w).sum(), argnums=(0, 1))(x, w)
    np.testing.assert_allclose(of_x, np.full(x.shape, 320.0))
    np.testing.assert_allclose(of_w, np.full(w.shape, float(rows)))


@pytest.mark.parametrize("rows", [1, 5, 200])
def test_the_result_can_keep_what_its_operands_round_off(rows):
    rng = np.random.default_rng(0)
    x, w = (jnp.asarray(rng.normal(size=shape), jnp.bfloat16) for shape in ((rows, 256), (320, 256)))
    y = jax.jit(linear, static_argnums=2)(x, w, jnp.float32)
    assert y.dtype == jnp.float32
    np.testing.assert_allclose(y, np.asarray(x, np.float64) @ np.asarray(w, np.float64).T, atol=1e-4)
