import jax
import jax.numpy as jnp
import numpy as np
import pytest
from backend_forms import forms_of
from model_helpers import quick_jit

from jaxmodels.layers import ssd as ssd_module
from jaxmodels.layers.ssd import (
    Tokens,
    ssd_chunked,
    ssd_chunks_at_once,
    ssd_matrix,
    ssd_replay,
    ssd_step,
    ssd_tree,
    ssd_window,
)
from jaxmodels.layers.state.history import of_state

HEADS, HEAD_DIM, STATE_DIM = 8, 3, 5
PARENTS = [-1, 0, 1, 1, 0, -1, 3, 6]

chunked = quick_jit(ssd_chunked, static_argnums=5)
replay = quick_jit(ssd_replay)


def of_tree(u, log_decay, b, c, state, ancestors):
    return ssd_tree(u, log_decay, b, c, of_state(state), ancestors)


@quick_jit
def steps(u, log_decay, b, c, state):
    """`ssd_step` token by token."""

    def one(state, token):
        y, state = ssd_step(*token, state)
        return state, y

    final, y = jax.lax.scan(one, state, tuple(jnp.swapaxes(a, 0, 1) for a in (u, log_decay, b, c)))
    return jnp.swapaxes(y, 0, 1), final


def draw(size, groups, *, batch=2, seed=0, decay=1.0):
    """u, log_decay, b, c and a state that is not zero."""
    rng = np.random.default_rng(seed)
    u = rng.standard_normal((batch, size, HEADS, HEAD_DIM))
    log_decay = -decay * rng.random((batch, size, HEADS)) ** 2
    b, c = rng.standard_normal((2, batch, size, groups, STATE_DIM))
    state = rng.standard_normal((batch, HEADS, STATE_DIM, HEAD_DIM))
    return tuple(a.astype(np.float32) for a in (u, log_decay, b, c, state))


def recurrence(u, log_decay, b, c, state):
    """The definition, head by head, in float64."""
    u, log_decay, b, c, state = (np.asarray(a, np.float64) for a in (u, log_decay, b, c, state))
    per_group = u.shape[2] // b.shape[2]
    y, state = np.zeros(u.shape), state.copy()
    for t in range(u.shape[1]):
        for n in range(u.shape[2]):
            g = n // per_group
            for row in range(u.shape[0]):
                decayed = np.exp(log_decay[row, t, n]) * state[row, n]
                state[row, n] = decayed + np.outer(b[row, t, g], u[row, t, n])
                y[row, t, n] = c[row, t, g] @ state[row, n]
    return y, state


def close(ours, expected, tolerance=1e-5):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(ours) / scale, expected / scale, atol=tolerance)


@pytest.mark.parametrize(
    ("size", "groups", "chunk"),
    [(1, 2, 4), (3, 1, 4), (4, 8, 4), (13, 1, 4), (17, 8, 16), (31, 2, 16)],
)
def test_every_form_is_the_recurrence(size, groups, chunk):
    inputs = draw(size, groups, seed=size)
    u, log_decay, b, _, state = inputs
    y, final = recurrence(*inputs)
    for form in (steps(*inputs), chunked(*inputs, chunk)):
        close(form[0], y)
        close(form[1], final)
    close(replay(u, log_decay, b, state, jnp.full(2, size)), final)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_the_matrix_is_the_map_from_an_empty_history(groups):
    u, log_decay, b, c, state = draw(11, groups)
    matrix = np.asarray(ssd_matrix(log_decay, b, c))
    assert matrix.shape == (2, HEADS, 11, 11)
    assert not np.triu(matrix, 1).any()
    y, _ = recurrence(u, log_decay, b, c, np.zeros_like(state))
    close(np.einsum("bnij,bjnp->binp", matrix, u), y)


def test_every_number_of_replayed_tokens():
    size = 6
    u, log_decay, b, c, state = draw(size, 2, batch=size + 1)
    ours = replay(u, log_decay, b, state, jnp.arange(size + 1))
    np.testing.assert_array_equal(ours[0], state[0])  # no token leaves the state bit for bit
    for n in range(1, size + 1):
        row = slice(n, n + 1)
        _, expected = recurrence(u[row, :n], log_decay[row, :n], b[row, :n], c[row, :n], state[row])
        close(ours[row], expected)


def test_tokens_without_step_leave_the_state_alone():
    """Padding: decay 1 and input 0, on both sides of a chunk's end."""
    u, log_decay, b, c, state = draw(10, 2)
    u[:, 6:], log_decay[:, 6:] = 0, 0
    _, expected = recurrence(u[:, :6], log_decay[:, :6], b[:, :6], c[:, :6], state)
    close(chunked(u, log_decay, b, c, state, 4)[1], expected)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_a_tree_is_each_of_its_branches(groups):
    size = len(PARENTS)
    u, log_decay, b, c, state = draw(size, groups)
    paths = []
    for token in range(size):
        paths.append([*(paths[PARENTS[token]] if PARENTS[token] >= 0 else []), token])
    ancestors = np.array([[j in path for j in range(size)] for path in paths])
    ours = quick_jit(of_tree)(u, log_decay, b, c, state, jnp.broadcast_to(ancestors, (2, size, size)))
    for token, path in enumerate(paths):
        y, _ = recurrence(u[:, path], log_decay[:, path], b[:, path], c[:, path], state)
        close(ours[:, token], y[:, -1])


def test_strong_decay_keeps_its_digits():
    """Decays of e-100 beside decays near 1: differences of large sums must not eat the small ones."""
    inputs = list(draw(64, 2))
    rng = np.random.default_rng(1)
    strong = rng.random(inputs[1].shape) < 0.3
    inputs[1] = np.where(strong, -100.0, 0.02 * inputs[1]).astype(np.float32)
    u, log_decay, b, _, state = inputs
    y, final = recurrence(*inputs)
    close(steps(*inputs)[0], y)
    ours = chunked(*inputs, 64)
    close(ours[0], y, 1e-4)
    close(ours[1], final, 1e-4)
    close(replay(u, log_decay, b, state, jnp.full(2, 64)), final, 1e-6)


@pytest.mark.parametrize(("size", "backend_chunk"), [(1, 64), (5, 64), (9, 64), (9, 4)])
def test_a_window_of_any_length(monkeypatch, size, backend_chunk):
    monkeypatch.setattr(ssd_module, "CPU_CHUNK", backend_chunk)
    u, *others, state = draw(size, 2)
    rng = np.random.default_rng(2)
    dt, skip = (rng.random(shape, np.float32) + 0.5 for shape in (u.shape[:3], HEADS))
    ours = quick_jit(ssd_window, static_argnums=3)(Tokens(u / dt[..., None], dt, *others), skip, state, 8)
    y, final = recurrence(u, *others, state)
    close(ours[0], y + skip[:, None] * u / dt[..., None])
    close(ours[1], final)


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize("backend_chunk", [3, 8])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_form_of_accelerators(monkeypatch, backend_chunk, dtype):
    """Of 4 blocks of chunks, the last of which is not full, or of 2, with the skip and without."""
    for name, value in {"CPU_CHUNK": 2, "ACCELERATOR_CHUNK": backend_chunk, "CHUNKS_AT_ONCE": 2}.items():
        monkeypatch.setattr(ssd_module, name, value)
    *others, state = draw(20, 2)
    rng = np.random.default_rng(2)
    dt, skip = (rng.random(shape, np.float32) + 0.5 for shape in (others[0].shape[:3], HEADS))
    x, log_decay, b, c = others
    x, b, c = (jnp.asarray(a, dtype) for a in (x, b, c))
    with forms_of("tpu"):
        window = quick_jit(ssd_window, static_argnums=3)
        ours = window(Tokens(x, dt, log_decay, b, c), skip, state, 64)
        without = window(Tokens(x, dt, log_decay, b, c), None, state, 64)
    x, b, c = (np.asarray(a, np.float32) for a in (x, b, c))
    y, final = recurrence(x * dt[..., None], log_decay, b, c, state)
    assert ours[0].dtype == "float32" and (ours[0] == ours[0].astype(dtype)).all()
    tolerance = 1e-5 if dtype == "float32" else 2e-2
    close(ours[0], y + skip[:, None] * x, tolerance)
    close(without[0], y, tolerance)
    close(ours[1], final, tolerance)


def test_gradients_of_the_form_of_accelerators_with_strong_decay():
    u, log_decay, b, c, state = draw(9, 2, decay=500.0)
    dt = jnp.ones_like(log_decay)

    def loss(form):
        return quick_jit(jax.grad(lambda *a: sum(x.sum() for x in form(*a)), argnums=(0, 1, 2, 3, 4)))

    ours = loss(lambda u, a, b, c, s: ssd_chunks_at_once(Tokens(u, dt, a, b, c), None, s, chunk=4))
    for mine, expected in zip(
        ours(u, log_decay, b, c, state), loss(steps.__wrapped__)(u, log_decay, b, c, state), strict=True
    ):
        assert np.isfinite(mine).all()
        close(mine, np.asarray(expected), 2e-5)


def test_gradients_equal_those_of_the_step_form():
    inputs = draw(9, 2, decay=3.0)
    weights = draw(9, 2, seed=7)

    def loss(form):
        def value(*inputs):
            y, final = form(*inputs)
            return (y * weights[0]).sum() + (final * weights[4]).sum()

        return quick_jit(jax.grad(value, argnums=(0, 1, 2, 3, 4)))

    ours = loss(lambda *a: ssd_chunked(*a, 4))(*inputs)
    expected = loss(steps.__wrapped__)(*inputs)
    for a, b in zip(ours, expected, strict=True):
        assert np.isfinite(a).all()
        close(a, np.asarray(b), 2e-5)


def test_gradients_are_finite_where_the_decay_underflows():
    u, log_decay, b, c, state = draw(9, 1, decay=500.0)
    gradients = quick_jit(
        jax.grad(lambda *a: sum(x.sum() for x in ssd_chunked(*a, 4)), argnums=(0, 1, 2, 3, 4))
    )
    assert all(np.isfinite(g).all() for g in gradients(u, log_decay, b, c, state))
