import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.decoding import Autoregressive, Jacobi
from jaxmodels.decoding.arguments import check_sizes, check_strategy, stop_ids


@pytest.mark.parametrize(
    "stop", [3, np.int64(3), jnp.int32(3), [3], (3,), {3}, np.array([3]), jnp.array([3])]
)
def test_one_stop_token_in_every_form(stop):
    assert stop_ids(stop) == (3,)


@pytest.mark.parametrize(
    ("stop", "message"),
    [
        ("x", r"must be a token id or a list of them, got 'x'; texts go to stop_strings"),
        (["x"], r"must hold integer token ids, got 'x'; texts go to stop_strings"),
        ([1.5], r"must hold integer token ids, got 1.5"),
        (np.array([1.5]), r"must hold integer token ids"),
        ([[1]], r"must hold integer token ids, got \[1\]"),
        (True, r"must be a token id or a list of them, got True"),
    ],
)
def test_what_is_no_stop_token_is_named(stop, message):
    with pytest.raises(ValueError, match=f"^stop_tokens:? {message}"):
        stop_ids(stop)


def test_no_stop_token():
    assert stop_ids([]) == ()


def test_sizes_of_numpy_and_jax():
    assert check_sizes(np.int64(3), jnp.int32(1), np.uint16(9)) == (3, 1, 9)
    assert check_sizes(3, 2**62, None) == (3, 2**62, None)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((0, 0, None), "max_new_tokens must be a whole number >= 1"),
        ((None, 0, None), "max_new_tokens must be a whole number, got None"),
        ((2.0, 0, None), "max_new_tokens must be a whole number, got 2.0"),
        ((2**31, 0, None), "max_new_tokens must be .* <= 1073741824, got 2147483648"),
        ((1, -1, None), "seed must be a whole number >= 0"),
        ((1, "1", None), "seed must be a whole number, got '1'"),
        ((1, 2**64, None), "seed must be"),
        ((1, 0, 0), "capacity must be a whole number >= 1"),
        ((1, 0, "9"), "capacity must be a whole number, got '9'"),
        ((1, 0, 2**31), "capacity must be .* <= 1073741824"),
    ],
)
def test_sizes_out_of_range_are_named(sizes, message):
    with pytest.raises(ValueError, match=message):
        check_sizes(*sizes)


@pytest.mark.parametrize(
    ("strategy", "message"),
    [
        (Jacobi, r"must be an instance, got the class Jacobi; write Jacobi\(...\)"),
        ("greedy", r"must be one of jaxmodels.decoding, such as Autoregressive\(\), got 'greedy'"),
        (None, r"got None"),
    ],
)
def test_what_is_no_strategy_is_named(strategy, message):
    with pytest.raises(ValueError, match=message):
        check_strategy(strategy)
    assert check_strategy(Autoregressive()) == Autoregressive()
