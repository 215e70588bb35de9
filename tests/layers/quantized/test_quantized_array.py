"""Weights in few bits as arrays: shapes, rows, and what their parts stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.quantized.array import QuantizedArray, bits_of, dequantized, take_rows


def quantized_array(shape, blocks, seed=0):
    rng = np.random.default_rng(seed)
    numbers = jnp.asarray(rng.integers(-127, 128, shape), jnp.int8)
    return QuantizedArray(numbers, jnp.asarray(rng.uniform(0.5, 2, blocks), jnp.float32), np.dtype("float32"))


@pytest.mark.parametrize(
    ("shape", "blocks", "merged"),
    [
        ((3, 4, 6), (3, 1, 1), (3, -1)),
        ((3, 4, 6), (3, 4, 2), (3, -1)),
        ((3, 4, 6), (3, 2, 1), (3, 24)),
        ((3, 4, 6), (3, 4, 1), (-1, 6)),
        ((3, 4, 6), (3, 4, 3), (12, 6)),
    ],
)
def test_merged_dimensions_stand_for_the_merged_array(shape, blocks, merged):
    w = quantized_array(shape, blocks)
    expected = dequantized(w).reshape(merged)
    np.testing.assert_array_equal(dequantized(w.reshape(*merged)), expected)


def test_scales_that_would_not_lie_in_order_are_refused():
    with pytest.raises(ValueError, match=r"scales \[3, 1, 2\] of numbers \[3, 4, 6\] do not lie in order"):
        quantized_array((3, 4, 6), (3, 1, 2)).reshape(3, -1)
    with pytest.raises(ValueError, match=r"\[3, 4, 6\] is no \[9, 8\]"):
        quantized_array((3, 4, 6), (3, 1, 1)).reshape(9, 8)


def test_rows_of_a_table():
    table = quantized_array((7, 8), (7, 2))
    index = jnp.asarray([[6, 0], [3, 3]])
    np.testing.assert_array_equal(take_rows(table, index), dequantized(table)[index])


def test_exponents_stand_for_powers_of_two():
    exponents = jnp.asarray([[1], [120], [127], [130], [250]], jnp.uint8)
    w = QuantizedArray(jnp.full((5, 2), 3, jnp.int8), exponents, np.dtype("float32"))
    expected = 3 * np.exp2(np.asarray(exponents, np.float64) - 127)
    np.testing.assert_array_equal(dequantized(w), np.broadcast_to(expected, (5, 2)).astype(np.float32))


@pytest.mark.parametrize(
    ("dtype", "bits"), [("int8", 8), ("int4", 4), ("float8_e4m3fn", 8), ("float4_e2m1fn", 4)]
)
def test_bytes_are_those_that_programs_read(dtype, bits):
    w = QuantizedArray(jnp.zeros((64, 128), dtype), jnp.zeros((64, 4), jnp.bfloat16), np.dtype("float32"))
    assert bits_of(dtype) == bits
    assert w.nbytes == 64 * 128 * bits // 8 + 64 * 4 * 2
    read = jax.jit(lambda w: w.numbers.astype(jnp.float32).sum()).lower(w).compile().memory_analysis()
    assert read.argument_size_in_bytes == 64 * 128 * bits // 8
