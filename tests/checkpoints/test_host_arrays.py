"""Arrays that JAX adopts are handed on as they are; others are copied, whatever their layout and dtype."""

import jax
import ml_dtypes
import numpy as np
import pytest

from jaxmodels.checkpoints.host_arrays import adoptable, aligned_empty, copy_into, copying_threads

FLOAT32 = np.dtype(np.float32)


@pytest.fixture(scope="module")
def threads():
    with copying_threads() as pool:
        yield pool


def draw(shape, dtype=FLOAT32):
    array = aligned_empty(shape, np.dtype(dtype))
    array[...] = np.random.default_rng(0).standard_normal(shape)
    return array


def adopted(array):
    return jax.device_put(array).unsafe_buffer_pointer() == array.ctypes.data


def test_what_jax_would_adopt_is_not_copied(threads):
    array = draw((128, 256))
    assert adoptable(array, FLOAT32, threads) is array
    assert adopted(array)


@pytest.mark.parametrize(
    "array",
    [
        draw((128 * 256 + 2,))[2:],
        draw((256, 128)).T,
        draw((128, 512))[:, :256],
        draw((128, 256), ml_dtypes.bfloat16),
        draw((3, 5)),
        draw(()),
    ],
    ids=["unaligned", "transposed", "strided", "other dtype", "small", "scalar"],
)
def test_all_else_is_copied_to_where_jax_adopts_it(threads, array):
    copy = adoptable(array, FLOAT32, threads)
    assert not np.shares_memory(copy, array)
    assert copy.dtype == FLOAT32
    assert adopted(copy)
    np.testing.assert_array_equal(copy, array.astype(np.float32))


@pytest.mark.parametrize("stored", ["float32", "float16", "bfloat16", "float64", "float8_e4m3fn"])
@pytest.mark.parametrize("wanted", ["float32", "bfloat16", "float16"])
def test_types_are_rounded_to_nearest(threads, stored, wanted):
    source = np.random.default_rng(0).standard_normal((7, 33)).astype(np.dtype(stored))
    target = aligned_empty(source.shape, np.dtype(wanted))
    copy_into(target, source, threads)
    np.testing.assert_array_equal(target, source.astype(np.float64).astype(np.dtype(wanted)))


@pytest.mark.parametrize(
    ("shape", "order"),
    [
        ((3 * 2**20 + 5,), (0,)),
        ((1500, 1031), (0, 1)),
        ((1031, 1500), (1, 0)),
        ((3, 700, 801), (0, 2, 1)),
        ((40, 5, 90, 101), (2, 0, 3, 1)),
        ((2, 2**20), (1, 0)),
    ],
)
def test_layouts_of_several_pieces(threads, shape, order):
    source = np.arange(np.prod(shape), dtype=np.float32).reshape(shape).transpose(order)
    target = np.zeros(source.shape, np.float32)
    copy_into(target, source, threads)
    np.testing.assert_array_equal(target, source)


def test_errors_of_threads_are_raised(threads):
    with pytest.raises(ValueError, match="could not broadcast"):
        copy_into(np.zeros((2000, 2000), np.float32), np.zeros((2000, 3), np.float32), threads)
