"""The mixtures of LLaDA-MoE and LLaDA2 once more, in float64, written from their published modeling files.

Elsewhere models of transformers stand in for them (`configurations.masked`). That these compute the same, in
norms of single heads, rotations and routing, is what is seen here.
"""

import numpy as np
import pytest
from configurations import case_param
from configurations.case import hf_dict
from configurations.masked import LLADA2, LLADA_MOE
from moe_oracle import ACTIVATIONS, in_float64, sigmoid, softmax
from references import who_sees_whom
from safetensors.numpy import load_file

import jaxmodels as jm


def below(tensors, prefix):
    return {name.removeprefix(prefix): a for name, a in tensors.items() if name.startswith(prefix)}


def norm(config, x, scale):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config["rms_norm_eps"]) * scale


def linear(tensors, name, x):
    return x @ tensors[f"{name}.weight"].T + tensors.get(f"{name}.bias", 0)


def rotated(config, x):
    """x: [S, N, H], the first features of a head turned in halves."""
    width = int(x.shape[-1] * config.get("partial_rotary_factor", 0.5))
    turned, rest = x[..., :width], x[..., width:]
    angles = np.arange(len(x))[:, None] / config["rope_theta"] ** (np.arange(0, width, 2) / width)
    cos, sin = (np.concatenate([f(angles)] * 2, axis=-1)[:, None] for f in (np.cos, np.sin))
    other = np.concatenate([-turned[..., width // 2 :], turned[..., : width // 2]], axis=-1)
    return np.concatenate([turned * cos + other * sin, rest], axis=-1)


def attended(config, q, k, v, seen):
    """Heads [S, N, H] of queries, [S, K, H] of keys and values; what the queries find, [S, N H]."""
    q, k = rotated(config, q), rotated(config, k)
    k, v = (np.repeat(a, q.shape[1] // a.shape[1], axis=1) for a in (k, v))
    scores = np.einsum("snh,tnh->nst", q, k) / np.sqrt(q.shape[-1])
    weights = softmax(np.where(seen, scores, -np.inf))
    return np.einsum("nst,tnh->snh", weights, v).reshape(len(q), -1)


def llada_moe_attention(config, t, x, seen):
    heads = config["num_attention_heads"]
    q, k, v = (
        linear(t, f"self_attn.{name}_proj", x).reshape(len(x), -1, config["hidden_size"] // heads)
        for name in "qkv"
    )
    q, k = (norm(config, a, t[f"self_attn.{name}_norm.weight"]) for name, a in (("q", q), ("k", k)))
    return linear(t, "self_attn.o_proj", attended(config, q, k, v, seen))


def llada2_attention(config, t, x, seen):
    n, k = config["num_attention_heads"], config["num_key_value_heads"]
    fused = linear(t, "attention.query_key_value", x).reshape(len(x), n + 2 * k, config["head_dim"])
    q, k, v = np.split(fused, [n, n + k], axis=1)
    if config.get("use_qk_norm", True):
        q = norm(config, q, t["attention.query_layernorm.weight"])
        k = norm(config, k, t["attention.key_layernorm.weight"])
    return linear(t, "attention.dense", attended(config, q, k, v, seen))


def llada_moe_routing(config, gate, x):
    """The experts of one token and their weights."""
    scores = softmax(gate["weight"] @ x)
    chosen = np.argsort(-scores)[: config["num_experts_per_tok"]]
    return chosen, scores[chosen]


def llada2_routing(config, gate, x):
    scores = sigmoid(gate["weight"] @ x)
    biased = scores + gate["expert_bias"]
    groups = biased.reshape(config["n_group"], -1)
    kept = np.argsort(-np.sort(groups, axis=1)[:, -2:].sum(1))[: config["topk_group"]]
    for group in set(range(len(groups))) - set(kept):
        groups[group] = -np.inf
    chosen = np.argsort(-groups.reshape(-1))[: config["num_experts_per_tok"]]
    weights = scores[chosen] / (scores[chosen].sum() if len(chosen) > 1 else 1)
    return chosen, weights * config.get("routed_scaling_factor", 2.5)


def gated(config, t, x):
    gate = ACTIVATIONS[config.get("hidden_act", "silu")](linear(t, "gate_proj", x))
    return linear(t, "down_proj", gate * linear(t, "up_proj", x))


def feed_forward(config, t, x, routing):
    if "gate.weight" not in t:
        return gated(config, t, x)
    y, gate = np.zeros_like(x), below(t, "gate.")
    for s, token in enumerate(x):
        for expert, weight in zip(*routing(config, gate, token), strict=True):
            y[s] += weight * gated(config, below(t, f"experts.{expert}."), token)
    shared = below(t, "shared_experts.")
    return y + gated(config, shared, x) if shared else y


PARTS = {
    "lladamoe": ("model.embed_tokens.weight", llada_moe_attention, llada_moe_routing),
    "llada2_moe": ("model.word_embeddings.weight", llada2_attention, llada2_routing),
}


def oracle(family, config, t, tokens, seen):
    """Logits [S, V]."""
    name, attention, routing = PARTS[family]
    x = t[name][tokens]
    for i in range(config["num_hidden_layers"]):
        layer = below(t, f"model.layers.{i}.")
        x = x + attention(config, layer, norm(config, x, layer["input_layernorm.weight"]), seen)
        h = norm(config, x, layer["post_attention_layernorm.weight"])
        x = x + feed_forward(config, below(layer, "mlp."), h, routing)
    return norm(config, x, t["model.norm.weight"]) @ t.get("lm_head.weight", t[name]).T


@pytest.mark.parametrize("case", [case_param(case) for case in (*LLADA_MOE, *LLADA2)])
def test_logits_are_those_of_the_published_code(case, build_reference):
    reference = build_reference(case)
    tensors = in_float64(load_file(reference.directory / "model.safetensors"))
    seen = who_sees_whom(case, case.forward_length)
    expected = np.stack([oracle(case.family, hf_dict(case), tensors, row, seen) for row in reference.tokens])
    scale = np.abs(expected).max()
    ours = np.asarray(jm.load(reference.directory)(reference.tokens))
    np.testing.assert_allclose(ours / scale, expected / scale, atol=1e-5, rtol=0)
    np.testing.assert_allclose(reference.logits / scale, expected / scale, atol=1e-5, rtol=0)
