import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit

from jaxmodels.layers.selective_scan import (
    SelectiveInputs,
    selective_matrix,
    selective_replay,
    selective_scan,
    selective_tree,
)

INNER, STATE_DIM = 5, 3
PARENTS = [-1, 0, 1, 1, 0, -1, 3, 6]

scan, replay, tree = (quick_jit(f) for f in (selective_scan, selective_replay, selective_tree))


def draw(size, *, batch=2, seed=0, rate=1.0):
    """inputs, c, rates and a state that is not zero."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((batch, size, INNER))
    dt = rng.random((batch, size, INNER)) ** 2
    b, c = rng.standard_normal((2, batch, size, STATE_DIM))
    rates = -rate * rng.random((STATE_DIM, INNER))
    state = rng.standard_normal((batch, STATE_DIM, INNER))
    u, dt, b, c, rates, state = (a.astype(np.float32) for a in (u, dt, b, c, rates, state))
    return SelectiveInputs(u=u, dt=dt, b=b), c, rates, state


def recurrence(inputs, c, rates, state):
    """The definition, entry by entry, in float64."""
    u, dt, b, c, rates, state = (np.array(a, np.float64) for a in (*vars(inputs).values(), c, rates, state))
    y = np.zeros(u.shape)
    for row, t, i in np.ndindex(*u.shape):
        for r in range(STATE_DIM):
            decay = np.exp(dt[row, t, i] * rates[r, i])
            state[row, r, i] = decay * state[row, r, i] + b[row, t, r] * u[row, t, i]
            y[row, t, i] += c[row, t, r] * state[row, r, i]
    return y, state


def at(inputs, rows=slice(None), tokens=slice(None)):
    return jax.tree.map(lambda a: a[rows][:, tokens], inputs)


def close(ours, expected, tolerance=1e-5):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(ours) / scale, expected / scale, atol=tolerance)


@pytest.mark.parametrize("size", [1, 2, 13, 67])
def test_a_window_of_any_length_is_the_recurrence(size):
    inputs, c, rates, state = draw(size, seed=size)
    expected = recurrence(inputs, c, rates, state)
    for ours, theirs in zip(scan(inputs, c, rates, state), expected, strict=True):
        close(ours, theirs)
    close(replay(inputs, rates, state, jnp.full(2, size)), expected[1])


def test_every_number_of_replayed_tokens():
    inputs, c, rates, state = draw(5, batch=6)
    ours = replay(inputs, rates, state, jnp.arange(6))
    np.testing.assert_array_equal(ours[0], state[0])
    for n in range(1, 6):
        row = slice(n, n + 1)
        _, expected = recurrence(at(inputs, row, slice(n)), c[row, :n], rates, state[row])
        close(ours[row], expected)


def test_the_matrix_is_the_map_from_an_empty_history():
    inputs, c, rates, state = draw(11)
    matrix = np.asarray(quick_jit(selective_matrix)(inputs.dt, inputs.b, c, rates))
    assert matrix.shape == (2, INNER, 11, 11)
    assert not np.triu(matrix, 1).any()
    y, _ = recurrence(inputs, c, rates, np.zeros_like(state))
    close(np.einsum("bist,bti->bsi", matrix, inputs.u), y)


def test_a_tree_is_each_of_its_branches():
    size = len(PARENTS)
    inputs, c, rates, state = draw(size)
    paths = []
    for token in range(size):
        paths.append([*(paths[PARENTS[token]] if PARENTS[token] >= 0 else []), token])
    ancestors = np.array([[j in path for j in range(size)] for path in paths])
    ours = tree(inputs, c, rates, state, jnp.broadcast_to(ancestors, (2, size, size)))
    for token, path in enumerate(paths):
        y, _ = recurrence(at(inputs, tokens=path), c[:, path], rates, state)
        close(ours[:, token], y[:, -1])


def test_strong_decay_keeps_its_digits_and_gradients():
    """Decays that underflow beside decays near 1."""
    inputs, c, rates, state = draw(70, rate=500.0)
    rates[0] *= 1e-5
    for ours, theirs in zip(scan(inputs, c, rates, state), recurrence(inputs, c, rates, state), strict=True):
        close(ours, theirs)

    def loss(*arguments):
        y, final = selective_scan(*arguments)
        return (y**2).sum() + final.sum()

    gradients = quick_jit(jax.grad(loss, argnums=(0, 1, 2, 3)))(inputs, c, rates, state)
    assert all(np.isfinite(g).all() for g in jax.tree.leaves(gradients))


def test_no_array_holds_the_states_of_all_tokens():
    """Neither running nor differentiating a long window takes memory for a state per token."""
    size, inner, state_dim = 1024, 32, 16
    shapes = SelectiveInputs(u=(1, size, inner), dt=(1, size, inner), b=(1, size, state_dim))
    inputs = SelectiveInputs(
        **{name: jax.ShapeDtypeStruct(shape, jnp.float32) for name, shape in vars(shapes).items()}
    )
    c, rates, state = (
        jax.ShapeDtypeStruct(shape, jnp.float32)
        for shape in ((1, size, state_dim), (state_dim, inner), (1, state_dim, inner))
    )
    all_states = 4 * size * inner * state_dim

    def loss(*arguments):
        return selective_scan(*arguments)[0].sum()

    for function in (selective_scan, jax.grad(loss, argnums=(0, 1, 2))):
        compiled = quick_jit(function).lower(inputs, c, rates, state).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < all_states / 2
