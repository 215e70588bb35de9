import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import D_MODEL, delta, quick_jit, random_params
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearConfig, KimiLinearDeltaAttention
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextConfig, Qwen3NextGatedDeltaNet

from jaxmodels.layers.gated_delta_mixer import GatedDeltaMixer
from jaxmodels.layers.norm import GatedRMSNorm
from jaxmodels.layers.spec import abstract_params, count_params, init_params, walk
from jaxmodels.layers.window import fresh_window
from jaxmodels.layers.window import peek as peek_window


def kimi(**changes):
    norm = GatedRMSNorm(dim=6, eps=1e-5, order="norm_then_gate", activation="sigmoid", axis=None)
    return delta(num_key_heads=4, key_dim=6, decay_rank=6, gate_rank=6, norm=norm, **changes)


VARIANTS = {
    "qwen3_next": delta(),
    "qwen3_next_one_key_head": delta(num_key_heads=1, conv_width=2, key_dim=9, chunk_size=8),
    "qwen3_next_ratio_1": delta(num_key_heads=4, chunk_size=24),
    "kimi_linear": kimi(chunk_size=16),
    "kimi_linear_small_chunks": kimi(conv_width=3, chunk_size=3),
}


def qwen3_next_module(mixer, p):
    """Their queries, keys, values and gates are interleaved by key head, and so are beta and the decay."""
    config = Qwen3NextConfig(
        hidden_size=mixer.d_model,
        linear_num_value_heads=mixer.num_heads,
        linear_num_key_heads=mixer.num_key_heads,
        linear_key_head_dim=mixer.key_dim,
        linear_value_head_dim=mixer.head_dim,
        linear_conv_kernel_dim=mixer.conv_width,
        rms_norm_eps=mixer.norm.eps,
        layer_types=["linear_attention"],
        num_hidden_layers=1,
    )
    by_group = {
        name: p[name].reshape(mixer.d_model, mixer.num_key_heads, -1) for name in p if name[:2] == "w_"
    }
    tensors = {
        "in_proj_qkvz.weight": [by_group[f"w_{name}"] for name in ("q", "k", "v", "gate")],
        "in_proj_ba.weight": [by_group["w_beta"], by_group["w_decay"]],
    }
    tensors = {
        name: np.concatenate(parts, axis=-1).reshape(mixer.d_model, -1).T for name, parts in tensors.items()
    }
    tensors["norm.weight"] = p["norm/scale"]
    return Qwen3NextGatedDeltaNet(config, 0), tensors, "out_proj.weight", ""


def kimi_linear_module(mixer, p):
    config = KimiLinearConfig(
        hidden_size=mixer.d_model,
        linear_num_heads=mixer.num_heads,
        linear_head_dim=mixer.head_dim,
        linear_conv_kernel_dim=mixer.conv_width,
        rms_norm_eps=mixer.norm.eps,
        layer_types=["linear_attention"],
        num_hidden_layers=1,
    )
    names = {
        "w_q": "q_proj", "w_k": "k_proj", "w_v": "v_proj", "w_beta": "b_proj",
        "w_decay_down": "forget_gate.f_a_proj", "w_decay_up": "forget_gate.f_b_proj",
        "w_gate_down": "g_a_proj", "w_gate_up": "g_b_proj",
    }  # fmt: skip
    tensors = {f"{theirs}.weight": p[ours].reshape(p[ours].shape[0], -1).T for ours, theirs in names.items()}
    tensors["o_norm.weight"] = p["norm/scale"]
    return KimiLinearDeltaAttention(config, 0), tensors, "o_proj.weight", "forget_gate."


def reference(name, mixer, params):
    """transformers' module with our parameters."""
    p = {path: np.asarray(leaf) for path, leaf in walk(params)}
    build = qwen3_next_module if name.startswith("qwen3_next") else kimi_linear_module
    module, tensors, out, prefix = build(mixer, p)
    conv = np.concatenate([p[f"conv_{name}"].reshape(mixer.conv_width, -1) for name in "qkv"], axis=-1)
    tensors["conv1d.weight"] = conv.T[:, None]
    tensors[out] = p["w_o"].reshape(-1, mixer.d_model).T
    tensors[prefix + "dt_bias"] = p["dt_bias"].reshape(-1)
    shape = dict(module.named_parameters())[prefix + "A_log"].shape
    tensors[prefix + "A_log"] = p["a_log"].reshape(shape)
    module.load_state_dict({name: torch.tensor(np.ascontiguousarray(a)) for name, a in tensors.items()})
    return module.eval()


def draw(batch, size, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, size, D_MODEL)).astype(np.float32)


@functools.partial(quick_jit, static_argnums=0)
def forward(mixer, params, x):
    return mixer.forward(params, x, fresh_window(jnp.zeros(x.shape[:2], jnp.int32)))


@functools.partial(quick_jit, static_argnums=0)
def peek(mixer, params, x, state, valid=None):
    return peek_window(mixer, params, x, state, fresh_window(jnp.zeros(x.shape[:2], jnp.int32), valid))


commit = quick_jit(GatedDeltaMixer.commit, static_argnums=0)


@pytest.mark.parametrize("name", VARIANTS)
def test_against_transformers(name):
    mixer = VARIANTS[name]
    params, x = random_params(mixer.spec()), draw(2, 19)
    with torch.no_grad():
        expected = reference(name, mixer, params)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(forward(mixer, params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen3_next", "kimi_linear"])
def test_windows_and_single_tokens_continue_each_other(name):
    mixer = VARIANTS[name]
    params, x = random_params(mixer.spec()), draw(2, 13)
    whole = forward(mixer, params, x)
    state = mixer.init_state(2, 99, jnp.float32)
    for start, stop in ((0, 5), (5, 6), (6, 7), (7, 13)):
        y, pending = peek(mixer, params, x[:, start:stop], state)
        np.testing.assert_allclose(y, whole[:, start:stop], rtol=1e-4, atol=1e-5)
        state = commit(mixer, pending)


@pytest.mark.parametrize("name", ["qwen3_next", "kimi_linear"])
def test_committing_n_tokens_is_having_seen_only_those(name):
    mixer = VARIANTS[name]
    params = random_params(mixer.spec())
    _, pending = peek(mixer, params, draw(6, 5, seed=1), mixer.init_state(6, 99, jnp.float32))
    state, x, n = commit(mixer, pending), draw(6, 5), jnp.arange(6)
    _, pending = peek(mixer, params, x, state)
    by_count = commit(mixer, pending, n)
    by_valid = commit(mixer, peek(mixer, params, x, state, n)[1])
    # The steps of one token at a time, in all rows; row r is compared after r of them.
    for count in range(6):
        for ours in (by_count, by_valid):
            for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(state), strict=True):
                np.testing.assert_allclose(a[count], b[count], rtol=1e-4, atol=1e-6)
        if count == 0:
            np.testing.assert_array_equal(by_count.memory[0], state.memory[0])
        if count < 5:
            state = commit(mixer, peek(mixer, params, x[:, count : count + 1], state)[1])


@pytest.mark.parametrize("name", ["qwen3_next", "kimi_linear"])
@pytest.mark.parametrize(
    ("params_dtype", "state_dtype"),
    [("float32", "bfloat16"), ("bfloat16", "float32"), ("bfloat16", "bfloat16")],
)
def test_the_state_keeps_its_types(name, params_dtype, state_dtype):
    mixer = VARIANTS[name]
    params = abstract_params(mixer.spec(), params_dtype)
    state = jax.eval_shape(lambda: mixer.init_state(2, 99, state_dtype))
    n, path = jax.ShapeDtypeStruct((2,), jnp.int32), jax.ShapeDtypeStruct((2, 3), jnp.int32)
    for size in (1, 4):
        x = jax.ShapeDtypeStruct((2, size, D_MODEL), params_dtype)
        y, pending = jax.eval_shape(functools.partial(peek.__wrapped__, mixer), params, x, state)
        assert y.dtype == params_dtype
        for arguments in ((), (n,), (n, path)):
            assert jax.eval_shape(mixer.commit, pending, *arguments) == state


@pytest.mark.parametrize("name", ["qwen3_next", "kimi_linear"])
def test_bfloat16_stays_close_to_transformers(name):
    """Decays and states stay in float32 in both, projections do not."""
    mixer = VARIANTS[name]
    params, x = random_params(mixer.spec()), draw(1, 12)
    module = reference(name, mixer, params).to(torch.bfloat16)
    with torch.no_grad():
        expected = module(torch.tensor(x, dtype=torch.bfloat16)).float().numpy()
    dtypes = abstract_params(mixer.spec(), jnp.bfloat16)
    narrow = jax.tree.map(lambda a, spec: a.astype(spec.dtype), params, dtypes)
    ours = forward(mixer, narrow, jnp.asarray(x, jnp.bfloat16))
    assert ours.dtype == jnp.bfloat16
    error = np.asarray(ours, np.float32) - expected
    assert np.sqrt((error**2).mean()) < 0.02 * expected.std()


def test_initial_decays():
    spec = delta(num_heads=64, num_key_heads=64).spec()
    params = init_params({name: spec[name] for name in ("a_log", "dt_bias")}, jax.random.key(0), jnp.bfloat16)
    rates = np.exp(params["a_log"])
    assert 1 <= rates.min() < 3
    assert 13 < rates.max() <= 16
    dt = np.log1p(np.exp(np.asarray(params["dt_bias"], np.float64)))
    assert 1e-3 * (1 - 1e-5) <= dt.min() < 3e-3
    assert 3e-2 < dt.max() <= 1e-1 * (1 + 1e-5)
    dtypes = {path: leaf.dtype for path, leaf in walk(abstract_params(spec, jnp.bfloat16))}
    assert {path for path, dtype in dtypes.items() if dtype == jnp.float32} == set(params)


@pytest.mark.parametrize(
    ("name", "not_multiplied"),
    # Rates, step biases and the norm's scale.
    [("qwen3_next", 4 + 4 + 6), ("kimi_linear", 4 + 24 + 6)],
)
def test_a_token_costs_its_weights_and_its_state(name, not_multiplied):
    mixer = VARIANTS[name]
    weights = 2 * (count_params(mixer.spec()) - not_multiplied)
    assert mixer.flops_per_token(0) == weights
    state = mixer.num_heads * mixer.key_dim * mixer.head_dim
    assert mixer.flops_per_token(1) == mixer.flops_per_token(10**6) == weights + 7 * state


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_key_heads": 3}, "num_key_heads=3 must divide num_heads=4"),
        ({"num_key_heads": 0}, "num_key_heads=0 must divide num_heads=4"),
        ({"conv_width": 1}, "conv_width=1 must be at least 2"),
        ({"chunk_size": 0}, "chunk_size=0 must be at least 1"),
        ({"key_dim": 0}, "key_dim=0 must be at least 1"),
        ({"decay_rank": 0}, "decay_rank=0 must be at least 1"),
        ({"head_dim": 7}, "norm: dim=6 must be head_dim=7"),
    ],
)
def test_what_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        delta(**changes)
