"""Generation compiled quickly, and what strategies are compared with."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import (
    ARCHITECTURES,
    D_MODEL,
    VOCAB,
    attention,
    decoder,
    delta,
    quick_jit,
    random_params,
    ssd,
)

from jaxmodels.decoding import Autoregressive, Draft, driver
from jaxmodels.decoding.generation import plan
from jaxmodels.decoding.prompts import encode_prompts
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.moe import GatedExperts, MoE, SoftmaxTopK
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder

NORM = RMSNorm(dim=D_MODEL)
EXPERTS = MoE(
    router=SoftmaxTopK(d_model=D_MODEL, num_experts=5, top_k=2),
    experts=GatedExperts(num_experts=5, d_model=D_MODEL, d_ff=12),
)
# Transformers: plain, with sliding windows in ring buffers, with latents; a Mamba-2, a gated delta rule, a
# hybrid with experts.
MODELS = {
    "attention": ARCHITECTURES["attention"],
    "ring": decoder(
        attention(sliding_window=3, cache=RingCache(longest_peek=32)),
        attention(sliding_window=5, sink_logits=True, cache=RingCache(longest_peek=32)),
    ),
    "ssd": ARCHITECTURES["ssd"],
    "latent": ARCHITECTURES["latent"],
    "delta": decoder(delta(), delta(num_key_heads=4, decay_rank=3, gate_rank=2, conv_width=3)),
    "hybrid": Decoder(
        vocab_size=VOCAB,
        d_model=D_MODEL,
        blocks=(
            Block(mixer_norm=NORM, mixer=ssd()),
            Block(mixer_norm=NORM, mixer=attention(num_kv_heads=4), ffn_norm=NORM, ffn=EXPERTS),
            Block(mixer_norm=NORM, mixer=ssd(conv_width=2), ffn_norm=NORM, ffn=EXPERTS),
        ),
        final_norm=NORM,
    ),
}


def in_tiers(every_run, sweep):
    """Names as the parameters of a test: those of every run of the tests, and those of the sweep alone."""
    return [*every_run, *(pytest.param(name, marks=pytest.mark.sweep) for name in sweep)]


# Of what goes through the caches of every kind of model in the same way.
TWO_IN_EVERY_RUN = in_tiers(["attention", "ssd"], ["ring", "latent", "delta", "hybrid"])
# Of drafters, whose own state is the same beside every kind of model; see `test_lossless` too.
BESIDE_A_MODEL = in_tiers(["ssd"], ["hybrid"])

PROMPTS = [[3, 1, 4, 1, 5], [9], [2, 6, 5, 3, 5, 8, 9, 7, 9, 3, 2], [3, 8, 4]]
NEW = 14

# Without the cache, which callers of `plan` get donated but this program does not.
_generate = quick_jit(
    lambda *arrays, **static: driver.generate(*arrays, **static)[0], static_argnames=("config", "max_new")
)


def ready(config, params, strategy, prompts=PROMPTS, new=NEW, stop=(), seed=0, capacity=None):
    """The `Plan` of a generation."""
    return plan(
        config,
        params,
        encode_prompts(prompts, None, config.vocab_size),
        strategy,
        max_new_tokens=new,
        stop_tokens=stop,
        pad_token=0,
        seed=seed,
        capacity=capacity,
    )


def decode(config, params, strategy, prompts=PROMPTS, new=NEW, stop=(), seed=0):
    """The `Output` of a generation, on the host."""
    made = ready(config, params, strategy, prompts, new, stop, seed)
    out = _generate(params, made.request, made.cache, strategy, config=config, max_new=made.new_slots)
    return jax.device_get(out)


@functools.cache
def architecture(name):
    """(config, params)"""
    config = MODELS[name]
    return config, random_params(config.spec())


@functools.cache
def expected(name, new=NEW, stop=()):
    """What greedy `Autoregressive` gives, with log-probabilities."""
    return decode(*architecture(name), Autoregressive(top_logprobs=2), new=new, stop=stop)


def nearby(params, noise):
    """A model that often agrees with the one of `params`."""
    other = random_like(params)
    return jax.tree.map(lambda p, o: jnp.asarray(p + noise * np.std(p) * o), jax.device_get(params), other)


def random_like(params):
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    return jax.tree.unflatten(
        tree, [_normal(key, leaf.size).reshape(leaf.shape) for key, leaf in zip(keys, leaves, strict=True)]
    )


def _normal(key, size):
    """The first of a power of two, which are drawn alike: a program for each shape would be compiled."""
    return np.asarray(_normals(key, 1 << (size - 1).bit_length()))[:size]


@functools.partial(jax.jit, static_argnums=1)
def _normals(key, size):
    return jax.random.normal(key, (size,))


def bigram_draft(tokens, vocab):
    """A draft without a history that drafts each token's last successor in rows of tokens."""
    table = np.zeros((vocab, vocab), np.float32)
    for row in tokens:
        for before, after in itertools.pairwise(row):
            table[:, before] = np.arange(vocab) == after
    config = Decoder(
        vocab_size=vocab,
        d_model=vocab,
        blocks=(Block(ffn=GatedMLP(d_model=vocab, d_ff=1)),),
        final_norm=RMSNorm(dim=vocab),
    )
    zeros = jax.tree.map(jnp.zeros_like, random_params(config.spec()))
    return Draft(
        config,
        {
            **zeros,
            "embed": {"weight": jnp.eye(vocab)},
            "final_norm": {"scale": jnp.ones(vocab)},
            "head": {"weight": jnp.asarray(table)},
        },
    )


def assert_same_generation(ours, expected, row=None):
    """Tokens, lengths and log-probabilities, of all rows or of one that was decoded alone."""
    rows = slice(None) if row is None else slice(row, row + 1)
    np.testing.assert_array_equal(ours.tokens, expected.tokens[rows])
    np.testing.assert_array_equal(ours.lengths, expected.lengths[rows])
    for name in ("chosen", "top", "top_ids"):
        pair = (getattr(one.log_probs, name) for one in (ours, expected))
        np.testing.assert_allclose(next(pair), next(pair)[rows], atol=1e-4, err_msg=name)


def stop_inside(tokens):
    """A token that occurs, but not among the first two of any row, so that windows run over it."""
    early = set(tokens[:, :2].ravel().tolist())
    return next(int(token) for token in tokens[:, 2:].T.ravel() if int(token) not in early)
