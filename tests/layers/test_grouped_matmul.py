"""The tile loop equals one product per group, forwards and backwards, whatever the sizes of the groups."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.grouped_matmul import PRODUCT, grouped_matmul, over_groups, tile_lengths, vector_matrix

# group sizes, D, F
CASES = {
    "one token": ([0, 1, 0, 0, 1, 1], 8, 6),
    "odd contraction": ([1, 0, 1], 7, 5),
    "one full group": ([0, 37, 0], 4, 3),
    "large and small tiles": ([5, 0, 1, 13, 2, 29], 6, 10),
    "exact tiles": ([16, 8, 0, 24], 4, 4),
    "few rows of one group": ([0, 5, 2], 6, 4),
    "one group": ([11], 3, 5),
    "all empty": ([0, 0], 3, 2),
    "longer than a tile": ([0, 70, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9], 3, 2),
    "split rows": ([2, 1], 200, 400),
}


def draw(sizes, d_in, d_out, spare=0, dtype="float32"):
    rng = np.random.default_rng(0)
    rows = max(sum(sizes) + spare, 1)
    x = jnp.asarray(rng.standard_normal((rows, d_in)), dtype)
    w = jnp.asarray(rng.standard_normal((len(sizes), d_in, d_out)), dtype)
    return x, w, jnp.asarray(sizes, jnp.int32)


def by_group(x, w, sizes):
    """One float64 product per group; rows beyond the last group give 0."""
    x, w = np.asarray(x, np.float64), np.asarray(w, np.float64)
    y, start = np.zeros((x.shape[0], w.shape[2])), 0
    for group, size in enumerate(np.asarray(sizes)):
        y[start : start + size] = x[start : start + size] @ w[group]
        start += size
    return y


@pytest.mark.parametrize("spare", [0, 5])
@pytest.mark.parametrize("case", CASES)
def test_equals_one_product_per_group(case, spare):
    x, w, sizes = draw(*CASES[case], spare)
    y = jax.jit(grouped_matmul)(x, w, sizes)
    np.testing.assert_allclose(y, by_group(x, w, sizes), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("case", CASES)
def test_gradients_equal_those_of_one_product_per_group(case):
    x, w, sizes = draw(*CASES[case], spare=3)
    g = np.random.default_rng(1).standard_normal((x.shape[0], w.shape[2]))
    dx, dw = jax.jit(jax.grad(lambda x, w: (grouped_matmul(x, w, sizes) * g).sum(), (0, 1)))(x, w)
    expected_dx = by_group(g, np.swapaxes(w, 1, 2), sizes)
    expected_dw, start = np.zeros(w.shape), 0
    for group, size in enumerate(CASES[case][0]):
        part = slice(start, start + size)
        expected_dw[group] = np.asarray(x, np.float64)[part].T @ g[part]
        start += size
    np.testing.assert_allclose(dx, expected_dx, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(dw, expected_dw, rtol=1e-5, atol=1e-5)


def test_bfloat16_accumulates_in_float32():
    x, w, sizes = draw([1, 0, 2, 3], 512, 4, dtype="bfloat16")
    y = grouped_matmul(x, w, sizes)
    assert y.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(y, np.float64), by_group(x, w, sizes), rtol=2**-7, atol=0.05)
    assert jax.grad(lambda w: grouped_matmul(x, w, sizes).sum().astype(jnp.float32))(w).dtype == jnp.bfloat16


def test_matrices_of_empty_groups_are_not_read():
    x, w, sizes = draw([2, 0, 3], 4, 4)
    y = grouped_matmul(x, w.at[1].set(jnp.nan), sizes)
    assert np.isfinite(y).all()


def test_batches_of_problems_by_vmap():
    sizes = jnp.asarray([[3, 0, 2], [0, 5, 0]])
    x, w, _ = draw([5, 0, 0], 4, 6)
    y = jax.vmap(grouped_matmul, (None, None, 0))(x, w, sizes)
    for row in range(2):
        np.testing.assert_allclose(y[row], by_group(x, w, sizes[row]), rtol=1e-5, atol=1e-5)


def lowered(platform):
    x, w, sizes = draw([3, 4], 4, 4)
    return jax.jit(grouped_matmul).trace(x, w, sizes).lower(lowering_platforms=(platform,)).as_text()


@pytest.mark.sweep
def test_the_tile_loop_is_for_cpu_alone():
    assert "stablehlo.while" in lowered("cpu")
    assert "stablehlo.while" not in lowered("tpu")
    assert "ragged_dot" in lowered("tpu")


@pytest.mark.parametrize("case", CASES)
def test_a_tpu_gets_whole_tiles_of_rows_for_the_same_product(case):
    x, w, sizes = draw(*CASES[case], 3)
    y = jax.jit(PRODUCT.tpu)(x, w, sizes)
    np.testing.assert_allclose(y, by_group(x, w, sizes), rtol=1e-5, atol=1e-5)
    (product,) = [line for line in lowered("tpu").splitlines() if "ragged_dot" in line]
    assert "(tensor<8x4xf32>, tensor<2x4x4xf32>, tensor<2xi32>)" in product


def test_tiles_grow_with_the_groups():
    lengths = [tile_lengths(rows, 32) for rows in (4, 32, 256, 2048, 10**6)]
    assert lengths == [(1, 1), (8, 1), (16, 2), (128, 8), (128, 8)]


@pytest.mark.parametrize("case", CASES)
def test_any_function_of_a_group_and_its_rows(case):
    x, w, sizes = draw(*CASES[case], spare=2)
    shift = jnp.arange(1.0, 1 + len(sizes))
    y = jax.jit(over_groups, static_argnums=0)(
        lambda g, rows: rows @ g["w"] + g["b"], {"w": w, "b": shift}, x, sizes
    )
    used = int(sizes.sum())
    shifts = np.repeat(np.asarray(shift), np.asarray(sizes))[:, None]
    np.testing.assert_allclose(y[:used], by_group(x, w, sizes)[:used] + shifts, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(y[used:], 0)


@pytest.mark.parametrize(("d_in", "pieces"), [(1536, 8), (640, 4), (200, 2), (190, 1), (257, 1)])
def test_pieces_of_one_row_are_even_and_not_too_small(d_in, pieces):
    x, w = jnp.ones((1, d_in)), jnp.ones((d_in, 400))
    text = jax.jit(vector_matrix).lower(x, w).as_text()
    assert (f"tensor<{pieces}x{d_in // pieces}x400xf32>" in text) == (pieces > 1)
    assert ("batching_dims = [0] x [0]" in text) == (pieces > 1)
    np.testing.assert_array_equal(vector_matrix(x, w), x @ w)
