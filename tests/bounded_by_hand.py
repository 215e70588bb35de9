"""Caches that evict, as lists of tokens per head in float64: what the tests of such policies compare with."""

import numpy as np
from cache_helpers import project_by_hand, rotate, softmax_by_hand


class Head:
    """One key head of one row: its kept keys, values, positions and the attention they were given."""

    def __init__(self, width):
        self.k, self.v = np.zeros((0, width)), np.zeros((0, width))
        self.positions, self.mass = np.zeros(0, int), np.zeros(0)

    def keep(self, index):
        for name in ("k", "v", "positions", "mass"):
            setattr(self, name, getattr(self, name)[index])

    def attend(self, q, k, v, at, scale, sink_logits):
        """Outputs of queries [S, M, H] at positions `at` over what is held and their own keys."""
        self.k, self.v = np.concatenate([self.k, k]), np.concatenate([self.v, v])
        self.positions = np.concatenate([self.positions, at])
        logits = np.einsum("smh,th->smt", q, self.k) * scale
        logits = np.where(self.positions <= at[:, None, None], logits, -np.inf)
        weights = softmax_by_hand(logits, sink_logits)
        self.mass = np.pad(self.mass, (0, len(at))) + weights.sum((0, 1))
        return np.einsum("smt,th->smh", weights, self.v)


def by_hand(layer, params, x, parts, evict):
    """One sequence in windows of these sizes; ``evict(head)`` is called for every head before each window."""
    group = layer.num_heads // layer.num_kv_heads
    at, outputs, begin = np.arange(len(x)), [], 0
    q, k, v = project_by_hand(layer, params, x)
    q, k = rotate(q, at, layer.rope), rotate(k, at, layer.rope)
    heads = [Head(layer.head_dim) for _ in range(layer.num_kv_heads)]
    for part in parts:
        now, out = slice(begin, begin + part), np.zeros((part, layer.num_heads, layer.head_dim))
        for i, head in enumerate(heads):
            mine = slice(i * group, (i + 1) * group)
            own = k[now, i * group], v[now, i * group]
            sink_logits = params["sink_logits"][mine] if layer.sink_logits else None
            evict(head)
            out[:, mine] = head.attend(q[now, mine], *own, at[now], layer.head_dim**-0.5, sink_logits)
        outputs.append(out)
        begin += part
    out = np.concatenate(outputs)
    return np.einsum("snh,dnh->sd", out, np.asarray(params["w_o"], np.float64)), heads


def cosines(a, b):
    return (a / np.linalg.norm(a, axis=-1, keepdims=True)) @ (b / np.linalg.norm(b, axis=-1, keepdims=True)).T
