"""Casts that lose numbers beyond a dtype's range."""

import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.ranges import check_infinities, check_range, is_narrower


@pytest.mark.parametrize(
    ("stored", "wanted", "narrower"),
    [
        ("float32", "float16", True),
        ("bfloat16", "float16", True),
        ("float64", "float32", True),
        ("float32", "bfloat16", False),
        ("float16", "bfloat16", False),
        ("float16", "float16", False),
        ("float8_e5m2", "float16", False),
        ("float8_e4m3fn", "float16", False),
    ],
)
def test_which_casts_can_lose_numbers(stored, wanted, narrower):
    assert is_narrower(stored, wanted) is narrower


@pytest.mark.parametrize("stored", ["float32", "float64", jnp.bfloat16])
def test_only_numbers_that_a_cast_makes_infinite_count(stored):
    kept = np.array([[1.0, -60000.0], [np.inf, np.nan]]).astype(stored)
    check_range("w", kept, np.float16)
    check_range("w", np.zeros((0, 3), stored), np.float16)
    lost = kept.copy()
    lost[0, 1] = -(2.0**17)
    with pytest.raises(
        CheckpointError, match=r"'w' holds 1 numbers of up to 131072, .* float16 \(at most 65504"
    ):
        check_range("w", lost, "float16")


def test_a_double_is_seen_before_jax_narrows_it():
    with pytest.raises(CheckpointError, match=r"'w' holds 1 numbers of up to 1e\+300, .* float32"):
        check_range("w", np.array([1e300, 2.0]), jnp.float32)


def test_what_was_cast_while_it_was_read():
    params = {"a": {"w": jnp.array([1.0, jnp.inf], jnp.float16)}, "b": jnp.array([jnp.inf], jnp.float32)}
    with pytest.raises(CheckpointError, match="'a/w' holds numbers that are infinite as float16"):
        check_infinities(params, "float16")
    check_infinities({"b": params["b"]}, "float16")  # of a dtype of its own
    check_infinities({"w": jnp.array([jnp.inf], jnp.bfloat16)}, jnp.bfloat16)
