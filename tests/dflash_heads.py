"""Small DFlash heads with random weights, and their forward pass written out in NumPy."""

import dataclasses
import functools

import numpy as np
from model_helpers import D_MODEL, VOCAB, quick_jit, random_params

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.models.draft_heads.block_conv import BlockConv
from jaxmodels.models.draft_heads.dflash import DFlash, DFlashBlock
from jaxmodels.models.draft_heads.slot_choice import (
    CandidateSelector,
    GatedMarkovBias,
    MarkovBias,
    RecurrentMarkovBias,
    SlotConfidence,
)

NORM, HEAD_DIM, THETA = RMSNorm(dim=D_MODEL), 6, 50.0
BLOCK = DFlashBlock(
    mixer_norm=NORM,
    mixer=Attention(
        d_model=D_MODEL,
        num_heads=4,
        num_kv_heads=2,
        head_dim=HEAD_DIM,
        rope=Rope(rotary_dim=HEAD_DIM, theta=THETA),
        query_norm=RMSNorm(dim=HEAD_DIM, axis=None),
        key_norm=RMSNorm(dim=HEAD_DIM, axis=None),
    ),
    ffn_norm=NORM,
    ffn=GatedMLP(d_model=D_MODEL, d_ff=20),
)
CONV = BlockConv(d_model=D_MODEL, width=3, group=4)
block = functools.partial(dataclasses.replace, BLOCK)


def sliding(window, causal):
    return block(mixer=dataclasses.replace(BLOCK.mixer, sliding_window=window), causal=causal)


def head(*blocks, vocab=VOCAB, **changes):
    """A head that reads the streams behind the first two blocks of a model of `model_helpers`."""
    fields = {
        "target_vocab_size": vocab,
        "vocab_size": vocab,
        "d_model": D_MODEL,
        "blocks": blocks or (BLOCK, BLOCK),
        "feature_norm": NORM,
        "norm": NORM,
        "target_layers": (0, 1),
        "block_size": 5,
        "mask_token": 2,
    }
    return DFlash(**{**fields, **changes})


def markov(kind, vocab=VOCAB):
    return kind(target_vocab_size=vocab, vocab_size=vocab, d_model=D_MODEL, rank=4)


CONFIDENT = {
    "from_anchor": True,
    "choice": markov(MarkovBias),
    "confidence": SlotConfidence(d_model=D_MODEL, rank=4),
}
HEADS = {
    "plain": head(),
    "causal": head(block(causal=True)),
    "sliding": head(sliding(4, True), sliding(3, False), BLOCK),
    "convolved": head(
        block(mixer_conv=CONV, ffn_conv=CONV),
        choice=CandidateSelector(vocab_size=VOCAB, d_model=D_MODEL, rank=4, candidates=3),
    ),
    "confident": head(**CONFIDENT),
    "gated": head(choice=markov(GatedMarkovBias)),
    "recurrent": head(choice=markov(RecurrentMarkovBias)),
}


features = quick_jit(DFlash.features, static_argnums=0)
keep = quick_jit(DFlash.keep, static_argnums=0)
peek = quick_jit(DFlash.peek, static_argnums=0)


@functools.cache
def params_of(name):
    return random_params(HEADS[name].spec(), seed=3)


def by_hand(head, params, embedded, streams, length):
    """What a block [W, D] at position `length` is behind the last norm, float64, token by token.

    streams: [S, m*D], the target's, of which the first `length` are seen.
    """
    params = _as_float64(params)
    features = _rms(streams[:length].astype(np.float64) @ params["fc"]["weight"].T, params["feature_norm"])
    x = embedded.astype(np.float64)
    for i, one in enumerate(head.blocks):
        p = params["blocks"][str(i)]
        y, kernel = _convolved(one.mixer_conv, p.get("mixer_conv"), _rms(x, p["mixer_norm"]))
        x = x + _closed(one.mixer_conv, p.get("mixer_conv"), _attention(one, p["mixer"], y, features), kernel)
        y, kernel = _convolved(one.ffn_conv, p.get("ffn_conv"), _rms(x, p["ffn_norm"]))
        gate, up = y @ p["ffn"]["w_gate"].T, y @ p["ffn"]["w_up"].T
        y = (gate / (1 + np.exp(-gate)) * up) @ p["ffn"]["w_down"].T
        x = x + _closed(one.ffn_conv, p.get("ffn_conv"), y, kernel)
    return _rms(x, params["norm"])


def _as_float64(tree):
    if isinstance(tree, dict):
        return {key: _as_float64(value) for key, value in tree.items()}
    return np.asarray(tree, np.float64)


def _rms(x, params):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + NORM.eps) * params["scale"]


def _rotated(x, position):
    half = HEAD_DIM // 2
    angles = position * THETA ** (-np.arange(half) / half)
    first, second = x[..., :half], x[..., half:]
    cos, sin = np.cos(angles), np.sin(angles)
    return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)


def _attention(one, p, y, features):
    """Every slot over the features and its block."""
    start, reach, out = len(features), one.mixer.sliding_window, []
    both = np.concatenate([features, y])
    keys = [
        _rotated(_rms(np.einsum("khd,d->kh", p["w_k"], row), p["key_norm"]), t) for t, row in enumerate(both)
    ]
    values = [np.einsum("khd,d->kh", p["w_v"], row) for row in both]
    for slot, row in enumerate(y):
        at = start + slot
        query = _rotated(_rms(np.einsum("nhd,d->nh", p["w_q"], row), p["query_norm"]), at)
        seen = [
            t
            for t in range(len(both))
            if (reach is None or abs(at - t) < reach) and not (one.causal and t > at)
        ]
        found = []
        for n in range(4):
            scores = np.array([query[n] @ keys[t][n // 2] for t in seen]) / np.sqrt(HEAD_DIM)
            weights = np.exp(scores - scores.max())
            found.append(
                sum(w * values[t][n // 2] for w, t in zip(weights / weights.sum(), seen, strict=True))
            )
        out.append(np.einsum("dnh,nh->d", p["w_o"], np.stack(found)))
    return np.stack(out)


def _convolved(conv, p, y):
    if conv is None:
        return y, None
    kernels = (y @ p["w_dynamic"].T).reshape(len(y), 2, conv.width, -1)
    return _filtered(conv, p["base"][0], kernels[:, 0], y), kernels[:, 1]


def _closed(conv, p, y, kernel):
    return y if conv is None else _filtered(conv, p["base"][1], kernel, y)


def _filtered(conv, base, dynamic, x):
    y = np.zeros_like(x)
    for t in range(len(x)):
        for offset in range(min(conv.width, t + 1)):
            for c in range(x.shape[1]):
                y[t, c] += (base[offset, c] + dynamic[t, offset, c // conv.group]) * x[t - offset, c]
    return y
