"""What every recurrent mixer must do: any split into windows, any commit, any tree."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import D_MODEL, random_params
from recurrent_mixers import MIXERS, OF_EACH_KIND, commit, draw, forward, peek, plainly

from jaxmodels.layers.spec import abstract_params, init_state

HISTORY, SIZE = 3, 5


def assert_same(ours, expected, row, **tolerance):
    for a, b in zip(jax.tree.leaves(plainly(ours)), jax.tree.leaves(plainly(expected)), strict=True):
        np.testing.assert_allclose(a[row], b[row], **tolerance)


@pytest.mark.parametrize("name", MIXERS)
def test_windows_and_single_tokens_continue_each_other(name):
    mixer = MIXERS[name]
    params, x = random_params(mixer.spec()), draw(2, 13)
    whole = forward(mixer, params, x)
    state = init_state(mixer, 2, 99, jnp.float32)
    for start, stop in ((0, 1), (1, 6), (6, 7), (7, 8), (8, 13)):
        y, pending = peek(mixer, params, x[:, start:stop], state, start)
        np.testing.assert_allclose(y, whole[:, start:stop], rtol=1e-4, atol=1e-5)
        state = commit(mixer, pending)


@pytest.fixture(scope="module", params=OF_EACH_KIND)
def settled(request):
    """A mixer, its parameters and a history of three tokens in each of six rows."""
    mixer = MIXERS[request.param]
    params = random_params(mixer.spec())
    _, pending = peek(mixer, params, draw(6, HISTORY, seed=1), init_state(mixer, 6, 99, jnp.float32), 0)
    return mixer, params, commit(mixer, pending)


@pytest.mark.parametrize("history", [0, HISTORY])
def test_committing_n_tokens_is_having_seen_only_those(settled, history):
    mixer, params, state = settled
    state = state if history else init_state(mixer, 6, 99, jnp.float32)
    x, n = draw(6, SIZE), jnp.arange(SIZE + 1)
    by_count = commit(mixer, peek(mixer, params, x, state, history)[1], n)
    by_valid = commit(mixer, peek(mixer, params, x, state, history, n)[1])
    assert_same(by_count, state, 0, rtol=0)  # nothing committed: bit for bit what it was
    # The steps of one token at a time, in all rows; row r is compared after r of them.
    for count in range(SIZE + 1):
        for ours in (by_count, by_valid):
            assert_same(ours, state, count, rtol=1e-4, atol=1e-6)
        if count < SIZE:
            token = x[:, count : count + 1]
            state = commit(mixer, peek(mixer, params, token, state, history + count)[1])


def test_a_tree_and_the_path_taken_through_it(settled):
    mixer, params, state = settled
    paths = [[0], [0, 1], [0, 2], [0, 1, 3], [4], [0, 1, 3, 5]]
    mask = jnp.asarray([[j in path for j in range(6)] for path in paths])
    x = draw(6, 6, seed=2)
    y, pending = peek(mixer, params, x, state, HISTORY, None, mask)
    # Row r takes the path to token r; shorter ones are padded with any token.
    path = jnp.asarray([p + [5] * (4 - len(p)) for p in paths])
    after = commit(mixer, pending, jnp.asarray([len(p) for p in paths]), path)
    whole_path = commit(mixer, pending, None, path)
    for row, tokens in enumerate(paths):
        one = state
        for depth, token in enumerate(tokens):
            expected, step = peek(mixer, params, x[:, token : token + 1], one, HISTORY + depth)
            one = commit(mixer, step)
        np.testing.assert_allclose(y[row, tokens[-1]], expected[row, 0], rtol=1e-4, atol=1e-5)
        assert_same(after, one, row, rtol=1e-4, atol=1e-6)
    assert_same(whole_path, after, 5, rtol=1e-6)


@pytest.mark.parametrize("name", OF_EACH_KIND)
@pytest.mark.parametrize(
    ("params_dtype", "state_dtype"),
    [("float32", "bfloat16"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")],
)
def test_the_state_keeps_its_types(name, params_dtype, state_dtype):
    """A loop carries the state: its types must not follow those of a window."""
    mixer = MIXERS[name]
    params = abstract_params(mixer.spec(), params_dtype)
    state = jax.eval_shape(lambda: init_state(mixer, 2, 99, state_dtype))
    n, path = jax.ShapeDtypeStruct((2,), jnp.int32), jax.ShapeDtypeStruct((2, 3), jnp.int32)
    for size in (1, 4):
        x = jax.ShapeDtypeStruct((2, size, D_MODEL), params_dtype)
        y, pending = jax.eval_shape(
            functools.partial(peek.__wrapped__, mixer), params, x, state, jnp.zeros((), jnp.int32)
        )
        assert y.dtype == params_dtype
        for arguments in ((), (n,), (n, path), (None, path)):
            assert jax.eval_shape(mixer.commit, pending, *arguments) == state
