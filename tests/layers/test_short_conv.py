import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import D_MODEL, quick_jit, random_params, short_conv

from jaxmodels.layers.short_conv import ShortConv
from jaxmodels.layers.spec import abstract_params, count_params, walk
from jaxmodels.layers.window import fresh_window
from jaxmodels.layers.window import peek as peek_window

VARIANTS = {"plain": short_conv(), "biases": short_conv(bias=True, conv_width=2)}
NAMES = {
    "w_in": "in_proj.weight", "b_in": "in_proj.bias", "conv_w": "conv.weight", "conv_b": "conv.bias",
    "w_out": "out_proj.weight", "b_out": "out_proj.bias",
}  # fmt: skip


def reference(mixer, params):
    """The layer of transformers with our parameters."""
    from transformers.models.lfm2.modeling_lfm2 import Lfm2Config, Lfm2ShortConv

    config = Lfm2Config(
        hidden_size=D_MODEL,
        num_hidden_layers=1,
        conv_L_cache=mixer.conv_width,
        conv_bias=mixer.bias,
        layer_types=["conv"],
    )
    module = Lfm2ShortConv(config, 0)
    tensors = {}
    for path, leaf in walk(params):
        tensor = torch.tensor(np.asarray(leaf).T.copy())
        tensors[NAMES[path]] = tensor[:, None] if path == "conv_w" else tensor
    module.load_state_dict(tensors)
    return module.eval()


def draw(batch, size, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, size, D_MODEL)).astype(np.float32)


@functools.partial(quick_jit, static_argnums=0)
def forward(mixer, params, x):
    return mixer.forward(params, x, fresh_window(jnp.zeros(x.shape[:2], jnp.int32)))


@functools.partial(quick_jit, static_argnums=0)
def peek(mixer, params, x, state, valid=None):
    window = fresh_window(jnp.zeros(x.shape[:2], jnp.int32), valid)
    return peek_window(mixer, params, x, state, window)


commit = quick_jit(ShortConv.commit, static_argnums=0)


@pytest.fixture(scope="module", params=VARIANTS)
def case(request):
    mixer = VARIANTS[request.param]
    return mixer, random_params(mixer.spec())


def test_against_transformers(case):
    mixer, params = case
    x = draw(2, 9)
    with torch.no_grad():
        expected = reference(mixer, params)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(forward(mixer, params, x), expected, rtol=1e-4, atol=1e-5)


def test_the_history_is_what_was_committed(case):
    """Every n, by `n` and by `valid`, from windows shorter and longer than the convolution."""
    mixer, params = case
    x = draw(5, 6)
    whole = forward(mixer, params, x)
    state = commit(mixer, peek(mixer, params, x[:, :1], mixer.init_state(5, 99, jnp.float32))[1])
    n = jnp.arange(5)
    y, pending = peek(mixer, params, x[:, 1:5], state)
    np.testing.assert_allclose(y, whole[:, 1:5], rtol=1e-5, atol=1e-6)
    by_valid = commit(mixer, peek(mixer, params, x[:, 1:5], state, n)[1])
    following = x[jnp.arange(5), 1 + n][:, None]
    for settled in (commit(mixer, pending, n), by_valid):
        y, _ = peek(mixer, params, following, settled)
        np.testing.assert_allclose(y[:, 0], whole[jnp.arange(5), 1 + n], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("params_dtype", "state_dtype"), [("float32", "bfloat16"), ("bfloat16", "float32")])
def test_the_state_keeps_its_types(params_dtype, state_dtype):
    mixer = VARIANTS["biases"]
    params = abstract_params(mixer.spec(), params_dtype)
    state = jax.eval_shape(lambda: mixer.init_state(2, 99, state_dtype))
    n, path = jax.ShapeDtypeStruct((2,), jnp.int32), jax.ShapeDtypeStruct((2, 3), jnp.int32)
    for size in (1, 4):
        x = jax.ShapeDtypeStruct((2, size, D_MODEL), params_dtype)
        y, pending = jax.eval_shape(functools.partial(peek.__wrapped__, mixer), params, x, state)
        assert y.dtype == params_dtype
        for arguments in ((), (n,), (n, path), (None, path)):
            assert jax.eval_shape(mixer.commit, pending, *arguments) == state


def test_a_token_costs_its_weights():
    mixer = short_conv()
    assert mixer.flops_per_token(0) == mixer.flops_per_token(10**6) == 2 * count_params(mixer.spec())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"d_model": 0}, "d_model=0 must be at least 1"),
        ({"conv_width": 1}, "conv_width=1 must be at least 2"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        short_conv(**changes)
