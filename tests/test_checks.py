import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.checks import is_traced, is_whole, number, shown, whole


@pytest.mark.parametrize("value", [3, np.int64(3), np.uint8(3), np.array(3), jnp.int32(3), jnp.array(3)])
def test_whole_numbers_of_every_kind(value):
    result = whole("n", value, low=1)
    assert result == 3 and type(result) is int


@pytest.mark.parametrize(
    "value",
    [None, True, np.True_, 3.0, np.float32(3), "3", [3], np.array([3]), float("nan"), int, object()],
)
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(ValueError, match=r"^size must be a whole number, got"):
        whole("size", value)


@pytest.mark.parametrize(
    "value",
    [-1, 2**31, 10**5000, np.int64(2**40)],
    ids=lambda value: f"{value:e}"[:9] if value < 2**62 else "huge",
)
def test_whole_numbers_out_of_range(value):
    with pytest.raises(ValueError, match=r"^size must be a whole number >= 0 and <= 2147483647, got"):
        whole("size", value)


@pytest.mark.parametrize(
    "value", [1, 1.5, np.float16(1.5), np.float64(1.5), jnp.bfloat16(1.5), jnp.array(1.5)]
)
def test_numbers_of_every_kind(value):
    result = number("x", value, low=0.0)
    assert result == float(value) and type(result) is float


@pytest.mark.parametrize(
    "value",
    [np.float32("nan"), float("inf"), -1e-9, 10**400, jnp.array(jnp.nan), np.float64("-inf"), 1.001],
)
def test_numbers_that_are_not_finite_or_out_of_range(value):
    with pytest.raises(ValueError, match=r"^p must be a finite number >= 0 and <= 1, got"):
        number("p", value, low=0.0, high=1.0)


@pytest.mark.parametrize("value", [None, False, "1", b"1", [1.0], np.ones(2), 1j, float])
def test_what_is_no_number_is_named(value):
    with pytest.raises(ValueError, match=r"^p must be a number, got"):
        number("p", value)


def test_a_bound_may_be_left_out():
    with pytest.raises(ValueError, match=r"must be a finite number > 0, got 0"):
        number("temperature", 0.0, low=0.0, low_included=False)


def test_values_inside_programs_are_told_apart():
    seen = []
    jax.jit(lambda x: seen.append(is_traced(x)))(1.0)
    assert seen == [True]
    assert not is_traced(1.0) and not is_traced(jnp.ones(()))


def test_integers_are_told_from_what_only_looks_so():
    assert all(map(is_whole, (3, np.int8(3), jnp.int32(3), np.array(3))))
    assert not any(map(is_whole, (True, 3.0, "3", [3], np.array([3]), np.True_, None)))


def test_long_values_are_cut():
    assert shown("x" * 500).endswith("...") and len(shown("x" * 500)) == 80
    assert shown(10**5000) == "an integer of 16610 bits"
