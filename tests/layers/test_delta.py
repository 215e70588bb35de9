import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit

from jaxmodels.layers import delta as delta_module
from jaxmodels.layers.delta import delta_chunked, delta_replay, delta_step, delta_tree, delta_window
from jaxmodels.layers.state.history import of_state

HEADS, HEAD_DIM, KEY_DIM = 4, 3, 5
PARENTS = [-1, 0, 1, 1, 0, -1, 3, 6]
DECAYS = ("per_head", "per_channel")

chunked = quick_jit(delta_chunked, static_argnums=6)
replay = quick_jit(delta_replay)


@quick_jit
def steps(*inputs):
    """`delta_step` token by token: outputs, updates and the final state."""

    def one(state, token):
        y, update, state = delta_step(*token, state)
        return state, (y, update)

    final, outputs = jax.lax.scan(one, inputs[5], tuple(jnp.swapaxes(a, 0, 1) for a in inputs[:5]))
    return *(jnp.swapaxes(a, 0, 1) for a in outputs), final


def draw(size, groups, decays, *, batch=2, seed=0, decay=1.0, mean=0.0):
    """q, k (of length 1, around a common `mean`), v, beta, log_decay and a state that is not zero."""
    rng = np.random.default_rng(seed)
    q, k = mean + rng.standard_normal((2, batch, size, groups, KEY_DIM))
    q, k = (a / np.linalg.norm(a, axis=-1, keepdims=True) for a in (q, k))
    v = rng.standard_normal((batch, size, HEADS, HEAD_DIM))
    beta = rng.random((batch, size, HEADS))
    channels = KEY_DIM if decays == "per_channel" else 1
    log_decay = -decay * rng.random((batch, size, HEADS, channels)) ** 2
    state = rng.standard_normal((batch, HEADS, KEY_DIM, HEAD_DIM))
    return tuple(a.astype(np.float32) for a in (q, k, v, beta, log_decay, state))


def recurrence(q, k, v, beta, log_decay, state):
    """The definition, head by head, in float64: outputs and the final state."""
    q, k, v, beta, log_decay, state = (np.asarray(a, np.float64) for a in (q, k, v, beta, log_decay, state))
    y, state = np.zeros(v.shape), state.copy()
    for row, t, n in np.ndindex(v.shape[:3]):
        g = n // (v.shape[2] // k.shape[2])
        memory = np.exp(log_decay[row, t, n])[:, None] * state[row, n]
        key = k[row, t, g]
        erased = memory - beta[row, t, n] * np.outer(key, key @ memory)
        state[row, n] = erased + beta[row, t, n] * np.outer(key, v[row, t, n])
        y[row, t, n] = q[row, t, g] @ state[row, n]
    return y, state


def take(inputs, tokens, rows=slice(None)):
    """The inputs of some tokens, with the state of all."""
    return *(a[rows][:, tokens] for a in inputs[:5]), inputs[5][rows]


def close(ours, expected, tolerance=1e-5):
    scale = np.abs(expected).max()
    np.testing.assert_allclose(np.asarray(ours) / scale, np.asarray(expected) / scale, atol=tolerance)


@pytest.mark.parametrize("decays", DECAYS)
@pytest.mark.parametrize(
    ("size", "groups", "chunk"),
    [(1, 2, 4), (3, 1, 3), (5, 4, 5), (11, 2, 4), (17, 4, 16), (31, 1, 24), (41, 2, 40)],
)
def test_every_form_is_the_recurrence(size, groups, chunk, decays):
    inputs = draw(size, groups, decays, seed=size)
    y, final = recurrence(*inputs)
    by_step, by_chunk = steps(*inputs), chunked(*inputs, chunk)
    for form in (by_step, by_chunk):
        close(form[0], y)
        close(form[2], final)
        # Any prefix, later, from the updates alone.
        for n in {0, size // 2, size}:
            kept = replay(inputs[1], form[1], inputs[4], inputs[5], jnp.full(2, n))
            close(kept, recurrence(*take(inputs, slice(n)))[1])


@pytest.mark.parametrize("decays", DECAYS)
def test_replaying_no_token_gives_the_state_back_bit_for_bit(decays):
    _, k, v, _, log_decay, state = draw(6, 2, decays)
    np.testing.assert_array_equal(replay(k, v, log_decay, state, jnp.asarray([0, 0])), state)


@pytest.mark.parametrize("decays", DECAYS)
def test_tokens_without_decay_and_beta_leave_the_state_alone(decays):
    """Padding, on both sides of a chunk's end."""
    inputs = draw(10, 2, decays)
    inputs[3][:, 6:], inputs[4][:, 6:] = 0, 0
    close(chunked(*inputs, 4)[2], recurrence(*take(inputs, slice(6)))[1])


@pytest.mark.parametrize("order", [range(8), [3, 6, 0, 7, 1, 5, 2, 4]])
@pytest.mark.parametrize("decays", DECAYS)
def test_a_tree_is_each_of_its_branches(decays, order):
    """In any order of the tokens: `order[i]` stands at place i."""
    size = len(PARENTS)
    place = {token: i for i, token in enumerate(order)}
    paths = []
    for token in range(size):
        paths.append([*(paths[PARENTS[token]] if PARENTS[token] >= 0 else []), token])
    ancestors = np.zeros((size, size), bool)
    for token, path in enumerate(paths):
        ancestors[place[token], [place[t] for t in path]] = True
    inputs = draw(size, 2, decays)
    *tokens, state = inputs
    y, update = quick_jit(lambda state, related, *tokens: delta_tree(*tokens, of_state(state), related))(
        state, jnp.broadcast_to(ancestors, (2, size, size)), *tokens
    )
    for token, path in enumerate(paths):
        branch = take(inputs, [place[t] for t in path])
        expected, final = recurrence(*branch)
        close(y[:, place[token]], expected[:, -1])
        along = np.asarray(update)[:, [place[t] for t in path]]
        close(replay(branch[1], along, branch[4], inputs[5], jnp.full(2, len(path))), final)


@pytest.mark.parametrize("decays", DECAYS)
def test_strong_decay_keeps_its_digits(decays):
    """Decays of e-100 beside decays near 1: differences of large sums must not eat the small ones."""
    inputs = list(draw(64, 2, decays))
    rng = np.random.default_rng(1)
    strong = rng.random(inputs[4].shape) < 0.3
    inputs[4] = np.where(strong, -100.0, 0.02 * inputs[4]).astype(np.float32)
    y, final = recurrence(*inputs)
    ours = chunked(*inputs, 64)
    # Channels decay by differences inside a block of tokens, all else by sums.
    tolerance = 1e-5 if decays == "per_head" else 1e-4
    close(ours[0], y, tolerance)
    close(ours[2], final, tolerance)
    close(replay(inputs[1], ours[1], inputs[4], inputs[5], jnp.full(2, 64)), final, tolerance)


@pytest.mark.parametrize("decays", DECAYS)
def test_keys_that_repeat_keep_their_digits(decays):
    """Nearly equal keys, no decay, beta near 1: powers of the chunk's system grow large and cancel."""
    inputs = list(draw(64, 2, decays, decay=0.0, mean=5.0))
    inputs[3] = 1 - 0.01 * inputs[3]
    y, final = recurrence(*inputs)
    ours = chunked(*inputs, 64)
    close(ours[0], y, 5e-5)
    close(ours[2], final, 5e-5)


@pytest.mark.parametrize(("size", "backend_chunk"), [(1, 64), (5, 64), (9, 64), (27, 8)])
@pytest.mark.parametrize("decays", DECAYS)
def test_a_window_of_any_length(monkeypatch, size, backend_chunk, decays):
    monkeypatch.setattr(delta_module, "CPU_CHUNK", backend_chunk)
    inputs = draw(size, 2, decays)
    y, update, final = quick_jit(lambda *a: delta_window(*a, chunk=12))(*inputs)
    expected, state = recurrence(*inputs)
    close(y, expected)
    close(final, state)
    close(update, steps(*inputs)[1])


@pytest.mark.parametrize("decays", DECAYS)
def test_gradients_equal_those_of_the_step_form(decays):
    inputs = draw(19, 2, decays, decay=3.0)
    weights = draw(19, 2, decays, seed=7)

    def loss(form):
        def value(*inputs):
            y, _, final = form(*inputs)
            return (y * weights[2]).sum() + (final * weights[5]).sum()

        return quick_jit(jax.grad(value, argnums=range(6)))

    ours = loss(lambda *a: delta_chunked(*a, 16))(*inputs)
    expected = loss(steps.__wrapped__)(*inputs)
    for a, b in zip(ours, expected, strict=True):
        assert np.isfinite(a).all()
        close(a, b, 2e-5)


@pytest.mark.parametrize("decays", DECAYS)
def test_gradients_are_finite_where_the_decay_underflows(decays):
    inputs = draw(17, 1, decays, decay=500.0)
    gradients = quick_jit(jax.grad(lambda *a: sum(x.sum() for x in delta_chunked(*a, 16)), argnums=range(6)))
    assert all(np.isfinite(g).all() for g in gradients(*inputs))
