"""Layers under a cache policy, fed window by window, for the tests of the policies."""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from model_helpers import D_MODEL, quick_jit

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.masks import CAUSAL
from jaxmodels.layers.spec import init_state, walk
from jaxmodels.layers.window import Window
from jaxmodels.layers.window import peek as peek_window


def draw(batch, size, seed=0):
    return np.random.default_rng(seed).standard_normal((batch, size, D_MODEL)).astype(np.float32)


@functools.partial(quick_jit, static_argnames=("layer", "kind"))
def run_peek(layer, params, x, state, start, valid, positions, *, mask, kind):
    window = Window(start=start, positions=positions, valid=valid, mask=mask if kind is None else kind)
    return peek_window(layer, params, x, state, window)


run_commit = quick_jit(Attention.commit, static_argnums=0)


@dataclasses.dataclass(frozen=True)
class Stream:
    """A layer that has been shown some tokens of each row."""

    layer: Attention
    params: dict
    state: object
    length: np.ndarray

    def peek(self, x, *, valid=None, positions=None, mask=None, kind=CAUSAL):
        size = x.shape[1]
        if positions is None:
            positions = self.length[:, None] + np.arange(size, dtype=np.int32)
        valid = np.full(self.length.shape, size, np.int32) if valid is None else np.asarray(valid, np.int32)
        kind = None if mask is not None else kind
        window = self.length, valid, positions
        return run_peek(self.layer, self.params, x, self.state, *window, mask=mask, kind=kind)

    def commit(self, pending, taken, *arguments):
        state = run_commit(self.layer, pending, *arguments)
        return dataclasses.replace(self, state=state, length=self.length + np.asarray(taken, np.int32))

    def feed(self, x, parts):
        """Outputs of all tokens of x, fed in windows of these sizes, and the stream after them."""
        outputs, stream, begin = [], self, 0
        for part in parts:
            y, pending = stream.peek(x[:, begin : begin + part])
            outputs.append(np.asarray(y))
            stream, begin = stream.commit(pending, part), begin + part
        return np.concatenate(outputs, axis=1), stream


def start(layer, params, batch=2, capacity=64, dtype=jnp.float32):
    return Stream(layer, params, init_state(layer, batch, capacity, dtype), np.zeros(batch, np.int32))


def project_by_hand(layer, params, x):
    """q, k, v of one sequence [S, D] before rope, in float64, keys and values once for each query head."""
    p = {path: np.asarray(leaf, np.float64) for path, leaf in walk(params)}
    q, k, v = (np.einsum("sd,nhd->snh", x, p[f"w_{n}"]) for n in "qkv")
    return q, *(np.repeat(a, layer.num_heads // layer.num_kv_heads, axis=1) for a in (k, v))


def rotate(x, positions, rope):
    """Half-split rotary embedding of [S, N, H] at these positions."""
    half = rope.rotary_dim // 2
    angles = np.asarray(positions, np.float64)[:, None] * rope.theta ** (-np.arange(half) / half)
    cos, sin = np.cos(angles)[:, None], np.sin(angles)[:, None]
    a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, rest], axis=-1)


def softmax_by_hand(logits, sinks=None):
    """Weights over the last axis; minus infinity is not seen; `sinks` is one more logit per head [N]."""
    highest = logits.max(-1, keepdims=True)
    weights = np.exp(logits - highest)
    total = weights.sum(-1, keepdims=True)
    if sinks is not None:
        total = total + np.exp(np.asarray(sinks, np.float64)[:, None] - highest)
    return weights / total


def close(ours, expected, atol=3e-5):
    np.testing.assert_allclose(np.asarray(ours), np.asarray(expected), rtol=3e-4, atol=atol)
