"""Families whose code is not in transformers, against float64 models written from their published code."""

import dataclasses

import jax.numpy as jnp
import moe_oracle
import numpy as np
import pytest
from moe_oracle import sigmoid, softmax
from safetensors.numpy import load_file

import jaxmodels as jm
from jaxmodels.layers.spec import unflatten, walk

D, HEADS, KV_HEADS, VOCAB, LAYERS, EPS, THETA = 12, 3, 1, 37, 2, 1e-5, 50.0
H = D // HEADS

COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": D,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "rms_norm_eps": EPS,
    "rope_theta": THETA,
    "max_position_embeddings": 64,
    "hidden_act": "silu",
}
MOE_PLUS_PLUS = {"model_type": "MoE++", **COMMON, "intermediate_size": 10}
MINICPM = {"model_type": "minicpm", **COMMON, "ffn_type": "block_linear", "num_experts": 5, "expert_size": 4}

CONFIGS = {
    "moe_plus_plus": {**MOE_PLUS_PLUS, "num_experts": [7]},
    "moe_plus_plus_normed_logits": {
        **MOE_PLUS_PLUS,
        "num_experts": [6],
        "moe_use_logits_norm": True,
        "moe_gate_norm_std": 1.3,
        "moe_feature_no_mul_topk": True,
    },
    "moe_plus_plus_mixtral_gating_tied": {
        **MOE_PLUS_PLUS,
        "num_experts": [8],
        "moe_use_mixtral_gating": True,
        "tie_word_embeddings": True,
    },
    "blockffn_rms": {
        **MINICPM,
        "norm_after_router": "rms",
        "scale_emb": 3,
        "scale_depth": 1.4,
        "dim_model_base": 4,
    },
    "blockffn_sum_untied": {
        **MINICPM,
        "norm_after_router": "sum",
        "norm_scale": 0.5,
        "tie_word_embeddings": False,
    },
    "blockffn_unnormed_biases": {**MINICPM, "norm_after_router": "none", "attention_bias": True},
    "minicpm_dense": {"model_type": "minicpm", **COMMON, "intermediate_size": 10, "scale_depth": 1.4},
}


# --- the models, on one sequence ---------------------------------------------------------------------


def norm(x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + EPS) * scale


def rotate(x):
    """x: [S, N, H], turned in halves."""
    angles = np.arange(len(x))[:, None] / THETA ** (np.arange(0, H, 2) / H)
    cos, sin = (np.concatenate([f(angles)] * 2, axis=-1)[:, None] for f in (np.cos, np.sin))
    return x * cos + np.concatenate([-x[..., H // 2 :], x[..., : H // 2]], axis=-1) * sin


def attention(t, x):
    q, k, v = (x @ t[f"{n}_proj.weight"].T + t.get(f"{n}_proj.bias", 0) for n in "qkv")
    q, k = rotate(q.reshape(-1, HEADS, H)), rotate(k.reshape(-1, KV_HEADS, H))
    k, v = (np.repeat(a.reshape(-1, KV_HEADS, H), HEADS // KV_HEADS, axis=1) for a in (k, v))
    scores = np.einsum("snh,tnh->nst", q, k) / np.sqrt(H)
    scores = np.where(np.tri(len(x), dtype=bool), scores, -np.inf)
    out = np.einsum("nst,tnh->snh", softmax(scores), v).reshape(len(x), -1)
    return out @ t["o_proj.weight"].T + t.get("o_proj.bias", 0)


def silu(x):
    return x * sigmoid(x)


def moe_plus_plus(config, t, x, previous):
    """Expert by expert, in the order in which the released layer adds them up."""
    count = config["num_experts"][0]
    logits = np.tanh(x @ t["moe.gate.wg.0.weight"].T) @ t["moe.gate.wg.2.weight"].T
    if previous is not None:
        logits = logits + previous @ t["moe.gate.gate_map.weight"].T
    scaled = logits
    if config.get("moe_use_logits_norm"):
        scaled = logits / (logits.std(-1, ddof=1, keepdims=True) / config["moe_gate_norm_std"])
    mixtral = config.get("moe_use_mixtral_gating", False)
    if not (mixtral or config.get("moe_feature_no_mul_topk")):
        x = 2 * x
    y = np.zeros_like(x)
    for s in range(len(x)):
        chosen = np.argsort(-scaled[s])[:2]
        if mixtral:
            gates = softmax(scaled[s][chosen])
        else:
            gates = np.where(chosen == count - 1, 0, softmax(scaled[s])[chosen])
            gates = gates / gates.sum()
        for expert, gate in zip(chosen, gates, strict=True):
            name = f"moe.experts.experts.{expert}."
            if expert < count - 4:
                both = x[s] @ t[name + "up_proj.weight"].T
                half = len(both) // 2
                y[s] += gate * ((silu(both[:half]) * both[half:]) @ t[name + "down_proj.weight"].T)
            elif expert < count - 2:
                a = softmax(x[s] @ t[name + "wg.weight"].T)
                y[s] += gate * (a[0] * x[s] + a[1] * t[name + "constant"])
            elif expert == count - 2:
                y[s] += gate * x[s]
    return y, logits


def block_ffn(config, t, x):
    scores = np.maximum(x @ t["router_proj.weight"].T, 0)
    if config["norm_after_router"] == "sum":
        scores = scores / (scores.sum(-1, keepdims=True) * config.get("norm_scale", 1.0) + 1e-5)
    elif config["norm_after_router"] == "rms":
        scores = norm(scores, t["router_norm.weight"])
    hidden = silu(x @ t["up_proj"].T) * np.repeat(scores, config["expert_size"], axis=-1)
    return hidden @ t["down_proj"].T


def below(tensors, prefix):
    return {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}


def oracle(config, tensors, tokens):
    """Logits [S, V]."""
    t = moe_oracle.in_float64(tensors)
    embed = t["model.embed_tokens.weight"]
    x, previous = embed[tokens] * config.get("scale_emb", 1), None
    depth = config.get("scale_depth", 1) / np.sqrt(LAYERS) if config["model_type"] == "minicpm" else 1.0
    for i in range(LAYERS):
        layer = below(t, f"model.layers.{i}.")
        ffn = below(layer, "mlp.")
        x = x + depth * attention(below(layer, "self_attn."), norm(x, layer["input_layernorm.weight"]))
        h = norm(x, layer["post_attention_layernorm.weight"])
        if config["model_type"] == "MoE++":
            update, previous = moe_plus_plus(config, ffn, h, previous)
        elif config.get("ffn_type") == "block_linear":
            update = block_ffn(config, ffn, h)
        else:
            gate = silu(h @ ffn["gate_proj.weight"].T)
            update = (gate * (h @ ffn["up_proj.weight"].T)) @ ffn["down_proj.weight"].T
        x = x + depth * update
    x = norm(x, t["model.norm.weight"])
    if config["model_type"] == "minicpm":
        x = x * config.get("dim_model_base", 1) / D
    return x @ t.get("lm_head.weight", embed).T


# --- tests -------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=CONFIGS)
def published(request, tmp_path_factory):
    """(config, model with random weights, its tensors in the published layout)"""
    config = CONFIGS[request.param]
    model = jm.init(jm.config_from_hf(config), seed=3)
    rng = np.random.default_rng(3)
    params = dict(walk(model.params))
    for path, leaf in params.items():
        size = leaf.shape[-2] if leaf.ndim > 1 else 1
        noise = rng.standard_normal(leaf.shape) * (1.5 / np.sqrt(size))
        params[path] = jnp.asarray(1 + 0.2 * noise if path.endswith("scale") else noise, jnp.float32)
    model = dataclasses.replace(model, params=unflatten(params, model.params))
    directory = tmp_path_factory.mktemp(request.param)
    jm.save(model, directory, format="hf")
    return config, directory, load_file(directory / "model.safetensors")


@pytest.mark.wide(every_run=1)
def test_logits_are_those_of_the_published_code(published):
    config, directory, tensors = published
    tokens = np.random.default_rng(0).integers(VOCAB, size=(2, 13))
    ours = np.asarray(jm.load(directory)(tokens))
    expected = np.stack([oracle(config, tensors, row) for row in tokens])
    np.testing.assert_allclose(ours, expected, rtol=1e-3, atol=1e-4 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.05


@pytest.mark.wide(every_run=1)
def test_greedy_decoding_follows_the_published_code(published):
    config, directory, tensors = published
    prompts = [[3, 1, 4], [1, 5, 9, 2, 6]]
    out = jm.load(directory).generate(prompts, max_new_tokens=6, stop_tokens=[])
    for row, prompt in enumerate(prompts):
        tokens = list(prompt)
        for _ in range(6):
            tokens.append(int(oracle(config, tensors, tokens)[-1].argmax()))
        assert out.tokens[row].tolist() == tokens[len(prompt) :]


def test_tensors_and_configuration_survive_the_round_trip(published, tmp_path):
    config, directory, tensors = published
    model = jm.load(directory)
    jm.save(model, tmp_path / "again", format="hf")
    again = load_file(tmp_path / "again" / "model.safetensors")
    assert again.keys() == tensors.keys()
    assert all(np.array_equal(again[name], tensors[name]) for name in tensors)
    assert jm.config_from_hf(jm.config_to_hf(model.config)) == model.config == jm.config_from_hf(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": [4]}, r"'num_experts' must hold one number above 4, got \[4\]"),
        ({"num_experts": [8], "moe_expert_interval": 2}, "'moe_expert_interval' has the value 2"),
        ({"num_experts": [8], "moe_2layer_gate": False}, "'moe_2layer_gate' has the value False"),
    ],
)
def test_other_forms_of_moe_plus_plus_are_refused(changes, message):
    with pytest.raises(jm.ConfigError, match=message):
        jm.config_from_hf({**MOE_PLUS_PLUS, **changes})


@pytest.mark.parametrize(
    "changes", [{"ffn_type": "block"}, {"attention_type": "mla"}, {"router_act": "silu"}]
)
def test_other_forms_of_blockffn_are_refused(changes):
    with pytest.raises(jm.ConfigError, match=next(iter(changes))):
        jm.config_from_hf({**MINICPM, **changes})
