"""Attention layers under every mask, in every kind of cache, against the whole score matrix."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cache_helpers import project_by_hand
from masks_by_hand import BATCH, MASKS, SIZE, Token, table
from model_helpers import D_MODEL, attention, quick_jit, random_params

from jaxmodels.layers import attend as attend_module
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.cache.sinks import SinkCache
from jaxmodels.layers.canvas_mask import OnCanvas
from jaxmodels.layers.masks import Causal
from jaxmodels.layers.spec import init_state
from jaxmodels.layers.window import Window
from jaxmodels.layers.window import peek as peek_window

SINKS, RECENT = 2, 5
LAYERS = {
    "full": attention(rope=None),
    "full_sliding": attention(rope=None, sliding_window=4),
    "full_chunks": attention(rope=None, chunk=5, sink_logits=True),
    "ring": attention(rope=None, sliding_window=4, cache=RingCache(longest_peek=SIZE)),
    "sinks": attention(rope=None, cache=SinkCache(sinks=SINKS, recent=RECENT, longest_peek=SIZE)),
}
ESSENTIAL = {("ring", "split"), ("sinks", "bidirectional"), ("full_chunks", "trees")}
CASES = [
    pytest.param(layer, mask, marks=() if (layer, mask) in ESSENTIAL else pytest.mark.sweep)
    for layer in LAYERS
    for mask in MASKS
]
# Each row's history, in windows of so many tokens, and how many of the last window are real.
WINDOWS, VALID = ((4, 6, 3), (6, 2, 1)), np.array([SIZE, 4], np.int32)
CAPACITY = 24


@pytest.fixture(autouse=True)
def small_key_blocks(monkeypatch):
    monkeypatch.setattr(attend_module, "KEY_BLOCK", 5)


@functools.partial(quick_jit, static_argnums=0)
def peek(layer, params, x, state, start, positions, valid, mask):
    window = Window(start=start, positions=positions, valid=valid, mask=mask)
    return peek_window(layer, params, x, state, window)


commit = quick_jit(Attention.commit, static_argnums=0)


def positions_of(layer, rng, size):
    """Any positions in a cache that keeps all tokens; else those that follow one another."""
    if layer.startswith("full"):
        return rng.integers(0, size, (BATCH, size)).astype(np.int32)
    return np.broadcast_to(np.arange(size, dtype=np.int32), (BATCH, size))


def seen_by_hand(name, mask, row, queries, keys):
    layer = LAYERS[name]
    seen = table(mask, row, queries, keys, window=layer.sliding_window, chunk=layer.chunk)
    if name != "sinks":
        return seen
    # Of what lies between the first tokens and the recent ones nothing is seen.
    causal = isinstance(mask, Causal)
    for i, query in enumerate(queries):
        for j, key in enumerate(keys):
            distance = query.position - (0 if key is None else key.position)
            near = distance < RECENT and (causal or -distance < RECENT)
            if isinstance(mask, OnCanvas):  # all of the canvas, and what is recent for its first token
                near = key is not None and key.position > mask.start[row] - RECENT
            seen[i, j] &= near or j < SINKS
    return seen


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("name", "kind"), CASES)
def test_a_window_after_a_history(name, kind):
    layer, mask = LAYERS[name], MASKS[kind]
    params, rng = random_params(layer.spec()), np.random.default_rng(3)
    lengths = np.sum(WINDOWS, axis=1).astype(np.int32)
    if isinstance(mask, OnCanvas) and not name.startswith("full"):
        # Caches that forget keep what the window's first token sees, which is where a canvas begins.
        mask = dataclasses.replace(mask, start=lengths)
    most = lengths.max() + SIZE
    x = rng.standard_normal((BATCH, most, D_MODEL)).astype(np.float32)
    positions = positions_of(name, rng, most)
    state, done = init_state(layer, BATCH, CAPACITY, jnp.float32), np.zeros(BATCH, np.int32)

    def part(a, begin):
        return np.stack(
            [
                np.pad(a, ((0, 0), (0, SIZE)) + ((0, 0),) * (a.ndim - 2))[r, b : b + SIZE]
                for r, b in enumerate(begin)
            ]
        )

    for valid in np.array(WINDOWS, np.int32).T:
        _, pending = peek(
            layer, params, part(x, done), state, done, part(positions, done), valid, MASKS["causal"]
        )
        state, done = commit(layer, pending), done + valid
    data = jax.tree.map(jnp.asarray, mask)
    ours, _ = peek(layer, params, part(x, done), state, done, part(positions, done), VALID, data)
    for row, n in enumerate(lengths):
        at = [int(p) for p in positions[row, : n + VALID[row]]]
        keys = [Token(p, i - n, i < n) for i, p in enumerate(at)]
        seen = seen_by_hand(name, mask, row, keys[n:], keys)
        q, k, v = project_by_hand(layer, params, x[row, : len(keys)])
        weights = np.where(seen, np.exp(np.einsum("snh,tnh->nst", q[n:], k) * layer.head_dim**-0.5), 0.0)
        total = weights.sum(-1, keepdims=True)
        if layer.sink_logits:
            total = total + np.exp(np.asarray(params["sink_logits"], np.float64))[:, None, None]
        out = np.einsum("nst,tnh->snh", weights / np.where(total > 0, total, 1.0), v)
        expected = np.einsum("snh,dnh->sd", out, np.asarray(params["w_o"], np.float64))
        np.testing.assert_allclose(ours[row, : VALID[row]], expected, rtol=2e-4, atol=2e-5)
