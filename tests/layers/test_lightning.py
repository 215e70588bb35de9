import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import D_MODEL, lightning, quick_jit, random_params
from transformers.models.minimax.modeling_minimax import MiniMaxConfig, MiniMaxLightningAttention

from jaxmodels.layers.lightning import LightningMixer, lightning_slope_scale
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.spec import abstract_params, count_params
from jaxmodels.layers.window import fresh_window
from jaxmodels.layers.window import peek as peek_window


def draw(batch, size, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, size, D_MODEL)).astype(np.float32)


def reference(mixer, params, layer, layers):
    """transformers' module with our parameters. Its projection holds each head's query, key and value."""
    config = MiniMaxConfig(
        hidden_size=D_MODEL,
        num_attention_heads=mixer.num_heads,
        head_dim=mixer.head_dim,
        num_hidden_layers=layers,
        block_size=5,
        hidden_act=mixer.activation,
    )
    module = MiniMaxLightningAttention(config, layer)
    p = {name: np.asarray(leaf) for name, leaf in params.items() if name != "norm"}
    fused = np.stack([p["w_q"], p["w_k"], p["w_v"]], axis=2).reshape(D_MODEL, -1)
    tensors = {
        "qkv_proj.weight": fused.T,
        "output_gate.weight": p["w_gate"].reshape(D_MODEL, -1).T,
        "out_proj.weight": p["w_o"].reshape(-1, D_MODEL).T,
        "norm.weight": np.asarray(params["norm"]["scale"]),
    }
    tensors = {name: torch.tensor(np.ascontiguousarray(a)) for name, a in tensors.items()}
    module.load_state_dict(dict(module.named_buffers()) | tensors)
    return module.eval()


@functools.partial(quick_jit, static_argnums=0)
def forward(mixer, params, x):
    return mixer.forward(params, x, fresh_window(jnp.zeros(x.shape[:2], jnp.int32)))


@functools.partial(quick_jit, static_argnums=0)
def peek(mixer, params, x, state, valid=None):
    return peek_window(mixer, params, x, state, fresh_window(jnp.zeros(x.shape[:2], jnp.int32), valid))


commit = quick_jit(LightningMixer.commit, static_argnums=0)


@pytest.mark.parametrize(
    ("layer", "layers", "changes"),
    [
        (0, 1, {}),
        (1, 3, {"num_heads": 3, "norm": RMSNorm(dim=18)}),
        (2, 3, {"activation": "gelu", "chunk_size": 64}),
    ],
)
def test_against_transformers(layer, layers, changes):
    mixer = lightning(slope_scale=lightning_slope_scale(layer, layers), **changes)
    params, x = random_params(mixer.spec()), draw(2, 19)
    with torch.no_grad():
        expected = reference(mixer, params, layer, layers)(torch.tensor(x), None, None)[0].numpy()
    np.testing.assert_allclose(forward(mixer, params, x), expected, rtol=1e-4, atol=1e-5)


def test_windows_and_single_tokens_continue_each_other():
    mixer = lightning()
    params, x = random_params(mixer.spec()), draw(2, 13)
    whole = forward(mixer, params, x)
    state = mixer.init_state(2, 99, jnp.float32)
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, 13)):
        y, pending = peek(mixer, params, x[:, start:stop], state)
        np.testing.assert_allclose(y, whole[:, start:stop], rtol=1e-4, atol=1e-5)
        state = commit(mixer, pending)


def test_committing_n_tokens_is_having_seen_only_those():
    mixer = lightning()
    params = random_params(mixer.spec())
    _, pending = peek(mixer, params, draw(6, 5, seed=1), mixer.init_state(6, 99, jnp.float32))
    state, x, n = commit(mixer, pending), draw(6, 5), jnp.arange(6)
    _, pending = peek(mixer, params, x, state)
    by_count = commit(mixer, pending, n).memory
    by_valid = commit(mixer, peek(mixer, params, x, state, n)[1]).memory
    np.testing.assert_array_equal(by_count[0], state.memory[0])
    for count in range(6):
        for ours in (by_count, by_valid):
            np.testing.assert_allclose(ours[count], state.memory[count], rtol=1e-4, atol=1e-5)
        if count < 5:
            state = commit(mixer, peek(mixer, params, x[:, count : count + 1], state)[1])


@pytest.mark.parametrize("params_dtype", ["float32", "bfloat16"])
def test_the_state_keeps_its_types(params_dtype):
    mixer = lightning()
    params = abstract_params(mixer.spec(), params_dtype)
    state = jax.eval_shape(lambda: mixer.init_state(2, 99, params_dtype))
    n, path = jax.ShapeDtypeStruct((2,), jnp.int32), jax.ShapeDtypeStruct((2, 3), jnp.int32)
    for size in (1, 4):
        x = jax.ShapeDtypeStruct((2, size, D_MODEL), params_dtype)
        y, pending = jax.eval_shape(functools.partial(peek.__wrapped__, mixer), params, x, state)
        assert y.dtype == params_dtype
        for arguments in ((), (n,), (n, path)):
            assert jax.eval_shape(mixer.commit, pending, *arguments) == state


def test_a_token_costs_its_weights_and_its_state():
    mixer = lightning()
    weights = 2 * (count_params(mixer.spec()) - 24)  # the norm's scale
    assert mixer.flops_per_token(0) == weights
    assert mixer.flops_per_token(1) == mixer.flops_per_token(10**6) == weights + 5 * 4 * 6 * 6


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_heads": 0}, "num_heads=0 must be at least 1"),
        ({"chunk_size": 0}, "chunk_size=0 must be at least 1"),
        ({"head_dim": 5}, r"dim=24 must be num_heads \* head_dim = 4 \* 5 = 20"),
        ({"slope_scale": -0.1}, "slope_scale=-0.1 must not be negative"),
        ({"activation": "none"}, "activation 'none' is not known"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        lightning(**changes)
