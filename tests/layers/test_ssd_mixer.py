import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import D_MODEL, quick_jit, random_params, ssd

from jaxmodels.layers.norm import GatedRMSNorm
from jaxmodels.layers.spec import abstract_params, init_params, walk
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.layers.window import BIDIRECTIONAL, CAUSAL, Window, fresh_window
from jaxmodels.layers.window import peek as peek_window

VARIANTS = {
    "one_group": ssd(num_groups=1, norm=GatedRMSNorm(dim=32)),
    "two_groups_all_biases": ssd(projection_bias=True, conv_width=3),
    "eight_groups_limits": ssd(
        num_groups=8, dt_limit=(0.1, 0.9), conv_bias=False, norm=GatedRMSNorm(dim=32, num_groups=8)
    ),
    "norm_first": ssd(norm=GatedRMSNorm(dim=32, num_groups=2, order="norm_then_gate"), conv_width=2),
    "scaled_inputs": ssd(input_scales=(0.5, 1.5, 0.8, 1.2, 0.9), projection_bias=True),
    "no_norm": ssd(norm=None, head_dim=2, dt_limit=(0.0, 0.5)),
}


def draw(batch, size, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, size, D_MODEL)).astype(np.float32)


def silu(x):
    return x / (1 + np.exp(-x))


def by_hand(mixer, params, x):
    """One sequence [S, D] token by token, straight from the definition, in float64."""
    p = {path: np.asarray(leaf, np.float64) for path, leaf in walk(params)}
    inner, groups, state_dim = mixer.num_heads * mixer.head_dim, mixer.num_groups, mixer.state_dim
    conv_inputs = np.zeros((mixer.conv_width, mixer.d_conv))
    state = np.zeros((mixer.num_heads, state_dim, mixer.head_dim))
    outputs = []
    for token in x.astype(np.float64):
        projected = token @ p["w_in"] + p.get("b_in", 0)
        group_width = groups * state_dim
        projected = projected * np.repeat(
            mixer.input_scales, (inner, inner, group_width, group_width, mixer.num_heads)
        )
        z, xbc, dt = projected[:inner], projected[inner : inner + mixer.d_conv], projected[-mixer.num_heads :]
        conv_inputs = np.concatenate([conv_inputs[1:], xbc[None]])
        convolved = silu((conv_inputs * p["conv_w"]).sum(0) + p.get("conv_b", 0))
        xs = convolved[:inner].reshape(mixer.num_heads, mixer.head_dim)
        b = convolved[inner : inner + groups * state_dim].reshape(groups, state_dim)
        c = convolved[inner + groups * state_dim :].reshape(groups, state_dim)
        dt = np.clip(np.log1p(np.exp(dt + p["dt_bias"])), *mixer.dt_limit)
        y = np.zeros_like(xs)
        for n in range(mixer.num_heads):
            g = n // (mixer.num_heads // groups)
            state[n] = np.exp(-np.exp(p["a_log"][n]) * dt[n]) * state[n] + dt[n] * np.outer(b[g], xs[n])
            y[n] = c[g] @ state[n] + p["d_skip"][n] * xs[n]
        outputs.append(normalise(mixer, p, y.reshape(-1), z) @ p["w_out"] + p.get("b_out", 0))
    return np.stack(outputs)


def normalise(mixer, p, y, z):
    if mixer.norm is None:
        return y * silu(z)
    first = mixer.norm.order == "gate_then_norm"
    y = y * silu(z) if first else y
    grouped = y.reshape(mixer.norm.num_groups, -1)
    grouped = grouped / np.sqrt((grouped**2).mean(-1, keepdims=True) + mixer.norm.eps)
    y = grouped.reshape(-1) * p["norm/scale"]
    return y if first else y * silu(z)


def window_after(start, size, valid=None, **kwargs):
    start = jnp.asarray(start, jnp.int32)
    valid = jnp.full(start.shape, size) if valid is None else jnp.asarray(valid)
    return Window(start=start, positions=start[:, None] + jnp.arange(size), valid=valid, **kwargs)


@functools.partial(quick_jit, static_argnums=0)
def forward(mixer, params, x):
    return mixer.forward(params, x, fresh_window(jnp.zeros(x.shape[:2], jnp.int32)))


@functools.partial(quick_jit, static_argnums=0)
def peek(mixer, params, x, state, valid=None, mask=None):
    window = window_after(
        jnp.zeros(x.shape[0]), x.shape[1], valid, **({} if mask is None else {"mask": mask})
    )
    return peek_window(mixer, params, x, state, window)


commit = quick_jit(SSDMixer.commit, static_argnums=0)


@pytest.fixture(scope="module", params=VARIANTS)
def case(request):
    mixer = VARIANTS[request.param]
    return mixer, random_params(mixer.spec())


def test_against_the_definition(case):
    mixer, params = case
    x = draw(2, 11)
    ours = forward(mixer, params, x)
    for row in range(2):
        np.testing.assert_allclose(ours[row], by_hand(mixer, params, x[row]), rtol=1e-4, atol=1e-5)


def test_windows_continue_each_other(case):
    mixer, params = case
    x = draw(2, 11)
    whole = forward(mixer, params, x)
    state = mixer.init_state(2, 99, jnp.float32)
    for start, stop in ((0, 5), (5, 6), (6, 11)):
        y, pending = peek(mixer, params, x[:, start:stop], state)
        np.testing.assert_allclose(y, whole[:, start:stop], rtol=1e-4, atol=1e-5)
        state = commit(mixer, pending)


@pytest.fixture(scope="module")
def settled():
    """A mixer, its parameters and a history of three tokens in each of six rows, the same in all."""
    mixer = VARIANTS["two_groups_all_biases"]
    params = random_params(mixer.spec())
    history = jnp.tile(draw(1, 3, seed=1), (6, 1, 1))
    _, pending = peek(mixer, params, history, mixer.init_state(6, 99, jnp.float32))
    return mixer, params, commit(mixer, pending)


def test_committing_n_tokens_is_having_seen_only_those(settled):
    mixer, params, state = settled
    x = jnp.tile(draw(1, 5, seed=2), (6, 1, 1))
    _, pending = peek(mixer, params, x, state)
    n = jnp.arange(6)
    _, by_valid = peek(mixer, params, x, state, n)
    following = jnp.tile(draw(1, 1, seed=3), (6, 1, 1))
    ours, _ = peek(mixer, params, following, commit(mixer, pending, n))
    also, _ = peek(mixer, params, following, commit(mixer, by_valid))
    for count in range(6):
        expected, _ = peek(mixer, params, following, state)
        np.testing.assert_allclose(ours[count], expected[count], rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(also[count], expected[count], rtol=1e-4, atol=1e-5)
        if count < 5:
            state = commit(mixer, peek(mixer, params, x[:, count : count + 1], state)[1])


def test_committing_nothing_gives_the_state_back_bit_for_bit(settled):
    mixer, params, state = settled
    _, pending = peek(mixer, params, draw(6, 5), state)
    for before, after in zip(
        jax.tree.leaves(state), jax.tree.leaves(commit(mixer, pending, jnp.zeros(6, jnp.int32))), strict=True
    ):
        np.testing.assert_array_equal(before, after)


def test_a_tree_and_the_path_taken_through_it(settled):
    mixer, params, state = settled
    parents = [-1, 0, 0, 1, -1, 3]
    paths = [[0], [0, 1], [0, 2], [0, 1, 3], [4], [0, 1, 3, 5]]
    mask = jnp.asarray([[j in path for j in range(6)] for path in paths])
    assert [path[-2] if len(path) > 1 else -1 for path in paths] == parents
    x = jnp.tile(draw(1, 6, seed=2), (6, 1, 1))
    y, pending = peek(mixer, params, x, state, None, mask)
    # Row r takes the path to token r; shorter ones are padded with any token.
    path = jnp.asarray([p + [5] * (4 - len(p)) for p in paths])
    n = jnp.asarray([len(p) for p in paths])
    following = jnp.tile(draw(1, 1, seed=3), (6, 1, 1))
    after, _ = peek(mixer, params, following, commit(mixer, pending, n, path))
    longest, _ = peek(mixer, params, following, commit(mixer, pending, None, path))
    for row, tokens in enumerate(paths):
        one = state
        for token in tokens:
            expected, step = peek(mixer, params, x[:, token : token + 1], one)
            one = commit(mixer, step)
        np.testing.assert_allclose(y[row, tokens[-1]], expected[row, 0], rtol=1e-4, atol=1e-5)
        expected, _ = peek(mixer, params, following, one)
        np.testing.assert_allclose(after[row], expected[row], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(longest[5], after[5], rtol=1e-6)


def test_a_bidirectional_window_runs_in_order():
    mixer = ssd()
    params, x = abstract_params(mixer.spec()), draw(2, 5)

    def program(mask):
        window = window_after([0, 3], 5, mask=mask)
        return jax.make_jaxpr(lambda p, s: peek_window(mixer, p, x, s, window))(
            params, mixer.init_state(2, 9, jnp.float32)
        )

    assert str(program(BIDIRECTIONAL)) == str(program(CAUSAL))


@pytest.mark.parametrize(
    ("params_dtype", "state_dtype"),
    [("float32", "bfloat16"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")],
)
def test_the_state_keeps_its_types(params_dtype, state_dtype):
    """A loop carries the state: its types must not follow those of a window."""
    mixer = VARIANTS["one_group"]
    params = abstract_params(mixer.spec(), params_dtype)
    state = jax.eval_shape(lambda: mixer.init_state(2, 99, state_dtype))
    n, path = jax.ShapeDtypeStruct((2,), jnp.int32), jax.ShapeDtypeStruct((2, 3), jnp.int32)
    for size in (1, 4):
        x = jax.ShapeDtypeStruct((2, size, D_MODEL), params_dtype)
        y, pending = jax.eval_shape(functools.partial(peek.__wrapped__, mixer), params, x, state)
        assert y.dtype == params_dtype
        for arguments in ((), (n,), (n, path)):
            after = jax.eval_shape(mixer.commit, pending, *arguments)
            assert after == state


@pytest.mark.parametrize("name", ["two_groups_all_biases", "eight_groups_limits"])
def test_gradients_are_finite_and_reach_every_parameter(name):
    mixer = VARIANTS[name]
    params = random_params(mixer.spec())
    x = draw(1, 6)

    def loss(params, x):
        y = mixer.forward(params, x, fresh_window(jnp.zeros(x.shape[:2], jnp.int32)))
        return (y * x).sum()

    gradients = quick_jit(jax.grad(loss))(params, x)
    for path, gradient in walk(gradients):
        assert np.isfinite(gradient).all(), path
        assert np.abs(gradient).max() > 0, path


def test_initial_values_are_those_of_the_paper():
    spec = ssd(num_heads=64, head_dim=1, num_groups=1, norm=None).spec()
    names = ("a_log", "dt_bias", "d_skip")
    params = init_params({name: spec[name] for name in names}, jax.random.key(0), jnp.bfloat16)
    np.testing.assert_allclose(np.exp(params["a_log"]), np.arange(1, 65), rtol=1e-6)
    dt = np.log1p(np.exp(np.asarray(params["dt_bias"], np.float64)))
    assert dt.min() >= 1e-3 * (1 - 1e-5) and dt.max() <= 1e-1 * (1 + 1e-5)
    assert dt.min() < 3e-3 and dt.max() > 3e-2
    assert (params["d_skip"] == 1).all()
    # Decays and steps are kept in float32 whatever the model's dtype is.
    dtypes = {path: leaf.dtype for path, leaf in walk(abstract_params(spec, jnp.bfloat16))}
    assert {path for path, dtype in dtypes.items() if dtype == jnp.float32} == set(names)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_groups": 3}, "num_groups=3 must divide num_heads=8"),
        ({"num_groups": 0}, "num_groups=0 must divide num_heads=8"),
        ({"conv_width": 1}, "conv_width=1 must be at least 2"),
        ({"dt_limit": (0.5, 0.1)}, r"dt_limit=\(0.5, 0.1\) must be \(low, high\)"),
        ({"dt_limit": (-1.0, 1.0)}, r"dt_limit=\(-1.0, 1.0\)"),
        ({"dt_limit": (math.nan, 1.0)}, r"dt_limit=\(nan, 1.0\)"),
        ({"chunk_size": 0}, "chunk_size=0 must be at least 1"),
        ({"norm": GatedRMSNorm(dim=16)}, "dim=16.*num_heads \\* head_dim = 8 \\* 4 = 32"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        ssd(**changes)


def test_mixers_are_hashable_configurations():
    assert hash(ssd()) == hash(ssd())
    assert ssd() != dataclasses.replace(ssd(), chunk_size=8)
