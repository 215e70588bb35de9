import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from model_helpers import delta, random_params
from recurrent_mixers import DELTA, draw, forward
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearConfig, KimiLinearDeltaAttention
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextConfig, Qwen3NextGatedDeltaNet

from jaxmodels.layers.spec import abstract_params, count_params, init_params, walk


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
        name: p[name].reshape(mixer.num_key_heads, -1, mixer.d_model) for name in p if name[:2] == "w_"
    }
    tensors = {
        "in_proj_qkvz.weight": [by_group[f"w_{name}"] for name in ("q", "k", "v", "gate")],
        "in_proj_ba.weight": [by_group["w_beta"], by_group["w_decay"]],
    }
    tensors = {
        name: np.concatenate(parts, axis=1).reshape(-1, mixer.d_model) for name, parts in tensors.items()
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
    tensors = {f"{theirs}.weight": p[ours].reshape(-1, p[ours].shape[-1]) for ours, theirs in names.items()}
    tensors["o_norm.weight"] = p["norm/scale"]
    return KimiLinearDeltaAttention(config, 0), tensors, "o_proj.weight", "forget_gate."


def reference(name, mixer, params):
    """transformers' module with our parameters."""
    p = {path: np.asarray(leaf) for path, leaf in walk(params)}
    build = qwen3_next_module if name.startswith("qwen3_next") else kimi_linear_module
    module, tensors, out, prefix = build(mixer, p)
    conv = np.concatenate([p[f"conv_{name}"].reshape(mixer.conv_width, -1) for name in "qkv"], axis=-1)
    tensors["conv1d.weight"] = conv.T[:, None]
    tensors[out] = p["w_o"].reshape(mixer.d_model, -1)
    tensors[prefix + "dt_bias"] = p["dt_bias"].reshape(-1)
    shape = dict(module.named_parameters())[prefix + "A_log"].shape
    tensors[prefix + "A_log"] = p["a_log"].reshape(shape)
    module.load_state_dict({name: torch.tensor(np.ascontiguousarray(a)) for name, a in tensors.items()})
    return module.eval()


@pytest.mark.parametrize("name", DELTA)
def test_against_transformers(name):
    mixer = DELTA[name]
    params, x = random_params(mixer.spec()), draw(2, 19)
    with torch.no_grad():
        expected = reference(name, mixer, params)(torch.tensor(x)).numpy()
    np.testing.assert_allclose(forward(mixer, params, x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["qwen3_next", "kimi_linear"])
def test_bfloat16_stays_close_to_transformers(name):
    """Decays and states stay in float32 in both, projections do not."""
    mixer = DELTA[name]
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
    mixer = DELTA[name]
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
