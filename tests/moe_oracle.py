"""A mixture of experts as loops over tokens and experts, in float64."""

import numpy as np
from scipy.special import erf


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


ACTIVATIONS = {
    "silu": lambda x: x * sigmoid(x),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: x * (1 + erf(x / np.sqrt(2))) / 2,
}


def in_float64(tree):
    return {k: in_float64(v) if isinstance(v, dict) else np.asarray(v, np.float64) for k, v in tree.items()}


def gated_expert(params, expert, x, activation="silu"):
    """One gated expert on one token."""
    p = {name: leaf[expert] for name, leaf in params.items()}
    gate = x @ p["w_gate"] + p.get("b_gate", 0)
    up = x @ p["w_up"] + p.get("b_up", 0)
    return (ACTIVATIONS[activation](gate) * up) @ p["w_down"] + p.get("b_down", 0)


def plain_expert(params, expert, x, activation="gelu"):
    """One plain expert on one token."""
    p = {name: leaf[expert] for name, leaf in params.items()}
    return ACTIVATIONS[activation](x @ p["w_up"] + p.get("b_up", 0)) @ p["w_down"] + p.get("b_down", 0)


def clamped_expert(params, expert, x, alpha=1.702, limit=7.0):
    """One expert of gpt-oss on one token."""
    p = {name: leaf[expert] for name, leaf in params.items()}
    both = x @ p["w_gate_up"] + p.get("b_gate_up", 0)
    gate, up = np.minimum(both[0::2], limit), np.clip(both[1::2], -limit, limit)
    return (gate * sigmoid(alpha * gate) * (up + 1)) @ p["w_down"] + p.get("b_down", 0)


def mixture(expert, params, x, experts, weights, num_experts):
    """The weighted sum over each token's slots, token by token. x: [B, S, D], experts: [B, S, k]."""
    y = np.zeros_like(x, dtype=np.float64)
    for b, s, slot in np.ndindex(*experts.shape):
        if experts[b, s, slot] < num_experts:
            y[b, s] += weights[b, s, slot] * expert(params, experts[b, s, slot], x[b, s])
    return y
