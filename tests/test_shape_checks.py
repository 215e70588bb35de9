"""The checks that the tests of layers rely on do find wrong shapes and dtypes."""

import jaxtyping
import numpy as np
import pytest

from jaxmodels.layers import grouped_matmul, linear


def test_an_array_of_another_shape_or_dtype_than_declared_is_found():
    w, x = np.ones((4, 6), np.float32), np.ones((2, 4), np.float32)
    assert grouped_matmul.row_product(w, x).shape == (2, 6)
    with pytest.raises(jaxtyping.TypeCheckError, match="row_product"):
        grouped_matmul.row_product(w, x[:, :3])
    with pytest.raises(jaxtyping.TypeCheckError, match="row_product"):
        grouped_matmul.row_product(w, x.astype(np.int32))


def test_what_declares_no_arrays_is_left_as_it_is():
    assert not hasattr(grouped_matmul.tile_lengths, "__wrapped__")
    assert hasattr(linear.product, "__wrapped__")
