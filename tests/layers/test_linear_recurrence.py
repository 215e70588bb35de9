import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit

from jaxmodels.layers import linear_recurrence
from jaxmodels.layers.linear_recurrence import (
    keep_only,
    recur,
    recur_in_chunks,
    recur_in_steps,
    recur_tree,
    replay,
)

SHAPE = (3, 2)  # of a row's state
PARENTS = [-1, 0, 1, 1, 0, -1, 3, 6]
# The same tree with its tokens in another order: children may stand before their parents.
SHUFFLE = [6, 2, 0, 7, 3, 5, 1, 4]


def expand(tokens):
    """Decays and inputs from the logarithm of the one and the other itself."""
    return jnp.exp(tokens["log_decay"]), tokens["u"]


def read(h, tokens):
    return {"sum": h.sum(-1) + tokens["u"][..., 0], "state": h}


def draw(size, batch=2, seed=0):
    """Tokens, some of which forget everything, and a state."""
    rng = np.random.default_rng(seed)
    log_decay = -(rng.random((batch, size, *SHAPE)) ** 2)
    log_decay[rng.random((batch, size)) < 0.15] = -np.inf
    tokens = {"log_decay": log_decay, "u": rng.standard_normal((batch, size, *SHAPE))}
    state = rng.standard_normal((batch, *SHAPE)).astype(np.float32)
    return {name: a.astype(np.float32) for name, a in tokens.items()}, state


def definition(tokens, state):
    """All states ``[B, S, ...]``, token by token, in float64."""
    h, states = state.astype(np.float64), []
    for t in range(tokens["u"].shape[1]):
        h = np.exp(tokens["log_decay"][:, t].astype(np.float64)) * h + tokens["u"][:, t]
        states.append(h)
    return np.stack(states, axis=1)


def close(ours, expected, tolerance=1e-5):
    np.testing.assert_allclose(ours, expected, rtol=tolerance, atol=tolerance)


def check(ours, tokens, state):
    outputs, final = ours
    states = definition(tokens, state)
    close(outputs["state"], states)
    close(outputs["sum"], states.sum(-1) + tokens["u"][..., 0])
    close(final, states[:, -1])


@pytest.mark.parametrize("form", [recur_in_steps, recur_in_chunks])
@pytest.mark.parametrize(("size", "chunk"), [(2, 4), (4, 4), (5, 4), (13, 4), (7, 1)])
def test_every_form_is_the_recurrence(form, size, chunk):
    tokens, state = draw(size, seed=size)
    check(quick_jit(lambda t, s: form(t, s, expand, read, chunk))(tokens, state), tokens, state)


@pytest.mark.parametrize("size", [1, 2, 11])
def test_a_window_of_any_length(size):
    tokens, state = draw(size, seed=size)
    check(quick_jit(lambda t, s: recur(t, s, expand, read, 4))(tokens, state), tokens, state)


def test_a_single_token_is_a_single_step():
    tokens, state = draw(1)
    program = str(jax.make_jaxpr(lambda t, s: recur(t, s, expand, read, 4))(tokens, state))
    assert "scan" not in program and "pad" not in program


@pytest.mark.parametrize("form", [recur_in_steps, recur_in_chunks])
def test_every_number_of_replayed_tokens(monkeypatch, form):
    size = 6
    tokens, state = draw(size, batch=size + 1)
    monkeypatch.setattr(linear_recurrence, "recur", form)
    ours = np.asarray(
        quick_jit(lambda t, s, n: replay(t, s, n, expand, 4))(tokens, state, jnp.arange(size + 1))
    )
    np.testing.assert_array_equal(ours[0], state[0])  # no token leaves the state bit for bit
    states = definition(tokens, state)
    for n in range(1, size + 1):
        close(ours[n], states[n, n - 1])


def test_what_is_not_kept_leaves_the_state_alone():
    tokens, state = draw(7)
    keep = np.arange(7) < np.array([[3], [6]])
    _, final = quick_jit(lambda t, s: recur(t, s, expand, read, 4))(keep_only(tokens, keep), state)
    states = definition(tokens, state)
    close(final[0], states[0, 2])
    close(final[1], states[1, 5])


@pytest.mark.parametrize("order", [list(range(len(PARENTS))), SHUFFLE])
def test_a_tree_is_each_of_its_branches(order):
    size = len(PARENTS)
    paths = []
    for token in range(size):
        paths.append([*(paths[PARENTS[token]] if PARENTS[token] >= 0 else []), token])
    place = {token: slot for slot, token in enumerate(order)}
    relation = np.zeros((2, size, size), bool)
    for token, path in enumerate(paths):
        relation[:, place[token], [place[t] for t in path]] = True
    tokens, state = draw(size)
    ours = quick_jit(lambda *a: recur_tree(*a, expand, read))(tokens, state, relation)
    for token, path in enumerate(paths):
        branch = {name: a[:, [place[t] for t in path]] for name, a in tokens.items()}
        expected = definition(branch, state)[:, -1]
        close(ours["state"][:, place[token]], expected)
        close(ours["sum"][:, place[token]], expected.sum(-1) + branch["u"][:, -1, :, 0])


def test_gradients_are_those_of_a_plain_loop():
    tokens, state = draw(9)
    weights, _ = draw(9, seed=1)

    def loop(tokens, state, *_):
        h, states = state, []
        for t in range(9):
            decay, inputs = expand({name: a[:, t] for name, a in tokens.items()})
            h = decay * h + inputs
            states.append(h)
        return {"state": jnp.stack(states, axis=1)}, h

    def gradient(form):
        def loss(tokens, state):
            outputs, final = form(tokens, state, expand, read, 4)
            return (outputs["state"] * weights["u"]).sum() + (final**2).sum()

        return quick_jit(jax.grad(loss, argnums=(0, 1)))(tokens, state)

    expected = gradient(loop)
    for form in (recur_in_steps, recur_in_chunks):
        for ours, theirs in zip(jax.tree.leaves(gradient(form)), jax.tree.leaves(expected), strict=True):
            assert np.isfinite(ours).all()
            close(ours, theirs)
