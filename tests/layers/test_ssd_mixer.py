import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit, random_params, ssd
from recurrent_mixers import SSD, draw, forward, window_after

from jaxmodels.layers.masks import BIDIRECTIONAL, CAUSAL
from jaxmodels.layers.norm import GatedRMSNorm
from jaxmodels.layers.spec import abstract_params, init_params, init_state, walk
from jaxmodels.layers.window import fresh_window
from jaxmodels.layers.window import peek as peek_window


def silu(x):
    return x / (1 + np.exp(-x))


def by_hand(mixer, params, x):
    """One sequence [S, D] token by token, straight from the definition, in float64."""
    p = {path: np.asarray(leaf, np.float64) for path, leaf in walk(params)}
    groups, state_dim = mixer.num_groups, mixer.state_dim
    conv_inputs = {name: np.zeros((mixer.conv_width, *p[f"conv_{name}"].shape[1:])) for name in ("x", "bc")}
    state = np.zeros((mixer.num_heads, state_dim, mixer.head_dim))
    outputs = []
    for token in x.astype(np.float64):
        of_z, of_x, of_b, of_c, of_dt = mixer.input_scales
        scales = {"z": of_z, "x": of_x, "bc": np.array([of_b, of_c])[:, None, None], "dt": of_dt}
        projected = {
            name: scale * (p[f"w_{name}"] @ token + p.get(f"b_{name}", 0)) for name, scale in scales.items()
        }
        convolved = {}
        for name, seen in conv_inputs.items():
            conv_inputs[name] = np.concatenate([seen[1:], projected[name][None]])
            taps = (conv_inputs[name] * p[f"conv_{name}"]).sum(0)
            convolved[name] = silu(taps + p.get(f"conv_bias_{name}", 0))
        xs = convolved["x"].reshape(mixer.num_heads, mixer.head_dim)
        (b, c), z, dt = convolved["bc"], projected["z"], projected["dt"]
        dt = np.clip(np.log1p(np.exp(dt + p["dt_bias"])), *mixer.dt_limit)
        y = np.zeros_like(xs)
        for n in range(mixer.num_heads):
            g = n // (mixer.num_heads // groups)
            state[n] = np.exp(-np.exp(p["a_log"][n]) * dt[n]) * state[n] + dt[n] * np.outer(b[g], xs[n])
            y[n] = c[g] @ state[n] + p["d_skip"][n] * xs[n]
        outputs.append(normalise(mixer, p, y.reshape(-1), z) @ p["w_out"].T + p.get("b_out", 0))
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


@pytest.fixture(scope="module", params=SSD)
def case(request):
    mixer = SSD[request.param]
    return mixer, random_params(mixer.spec())


def test_against_the_definition(case):
    mixer, params = case
    x = draw(2, 11)
    ours = forward(mixer, params, x)
    for row in range(2):
        np.testing.assert_allclose(ours[row], by_hand(mixer, params, x[row]), rtol=1e-4, atol=1e-5)


def test_a_bidirectional_window_runs_in_order():
    mixer = ssd()
    params, x = abstract_params(mixer.spec()), draw(2, 5)

    def program(mask):
        window = window_after([0, 3], 5, mask=mask)
        return jax.make_jaxpr(lambda p, s: peek_window(mixer, p, x, s, window))(
            params, init_state(mixer, 2, 9, jnp.float32)
        )

    assert str(program(BIDIRECTIONAL)) == str(program(CAUSAL))


@pytest.mark.parametrize("name", ["two_groups_all_biases", "eight_groups_limits"])
def test_gradients_are_finite_and_reach_every_parameter(name):
    mixer = SSD[name]
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
