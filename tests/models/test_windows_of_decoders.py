"""What a decoder makes of its windows: rotations that all layers share, masks, tokens of any places."""

import functools
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import (
    ARCHITECTURES,
    attention,
    commit,
    decoder,
    draw_tokens,
    forward,
    peek,
    quick_jit,
    random_params,
)
from strategy_helpers import in_tiers

from jaxmodels.layers.masks import All, BlockCausal, Prefix, Sliding
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.spec import abstract_params, walk
from jaxmodels.layers.window import fresh_window

# Rotations of one rotary embedding in all layers, and of two.
ROPES = {name: config for name, config in ARCHITECTURES.items() if config.ropes} | {
    "two_ropes": decoder(*(attention(rope=Rope(rotary_dim=4, theta=t)) for t in (10.0, 99.0, 10.0)))
}


@pytest.mark.parametrize("name", ROPES)
def test_a_program_has_one_cosine_for_each_rotary_embedding(name):
    config = ROPES[name]
    params, tokens = abstract_params(config.spec()), draw_tokens(2, 3)
    cache = jax.eval_shape(lambda: config.init_cache(2, 8))
    programs = {
        "forward": jax.jit(config.forward).lower(params, tokens),
        "peek": jax.jit(config.peek).lower(params, tokens, cache),
    }
    for verb, program in programs.items():
        assert program.as_text().count("stablehlo.cosine") == len(config.ropes), verb


def test_the_compiled_program_has_one_cosine():
    config = ARCHITECTURES["hybrid"]
    params, cache = abstract_params(config.spec()), jax.eval_shape(lambda: config.init_cache(2, 8))
    program = jax.jit(config.peek).lower(params, draw_tokens(2, 3), cache).compile().as_text()
    assert program.count(" cosine(") == program.count(" sine(") == 1


@pytest.mark.sweep
@pytest.mark.parametrize("ropes", ["made outside", "made inside"])
def test_blocks_can_be_rematerialised_under_a_window_made_outside(ropes):
    config = ARCHITECTURES["hybrid"]
    params, tokens = random_params(config.spec()), draw_tokens(2, 5)

    def loss(params, keep):
        window = fresh_window(tokens, ropes=config.ropes if ropes == "made outside" else ())
        stream = config.embed(params, tokens, window)
        for i, block in enumerate(config.blocks):
            stream = keep(functools.partial(block.forward, window=window))(
                config.block_params(params, i), stream
            )
        return (config.logits(params, config.normalise(params, stream)) ** 2).mean()

    expected = quick_jit(jax.grad(lambda p: (config.forward(p, tokens) ** 2).mean()))(params)
    ours = quick_jit(jax.grad(functools.partial(loss, keep=jax.checkpoint)))(params)
    for (path, a), (_, b) in zip(walk(ours), walk(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6, err_msg=path)


# --- masks -----------------------------------------------------------------------------------------

TOKENS = draw_tokens(2, 12)
# By how long the windows are in which a sequence may be fed and give what it gives as a whole.
SPLIT_MASKS = {
    "block_causal": (BlockCausal(4), 4),
    "prefix": (Prefix(np.array([4, 3], np.int32)), 4),
    "near_blocks": (All((BlockCausal(2), Sliding(before=5))), 2),
}


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", in_tiers(["attention"], ["latent", "sliding", "hybrid", "ring"]))
def test_windows_under_a_mask_are_the_sequence_under_it(name):
    config = ARCHITECTURES[name]
    params = random_params(config.spec())
    for kind, (mask, size) in SPLIT_MASKS.items():
        whole, cache, parts = forward(config, params, TOKENS, mask=mask), config.init_cache(2, 16), []
        for begin in range(0, TOKENS.shape[1], size):
            logits, pending = peek(config, params, TOKENS[:, begin : begin + size], cache, mask=mask)
            parts.append(logits)
            cache = commit(config, pending)
        np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=2e-4, atol=2e-4, err_msg=kind)


# --- transformations -------------------------------------------------------------------------------

TREES = np.stack([np.tril(np.ones((4, 4), bool)), np.eye(4, dtype=bool) | (np.arange(4) == 0)])


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["hybrid", "sliding"])
def test_windows_of_many_caches_at_once(name):
    """Two caches, each with a history and a tree of its own, through one `jax.vmap` of both verbs."""
    config = ARCHITECTURES[name]
    params, tokens = random_params(config.spec()), draw_tokens(4, 9).reshape(2, 2, 9)

    def verbs(tokens, tree, kept):
        cache = config.commit(config.peek(params, tokens[:, :4], config.init_cache(2, 16))[1], kept)
        positions = cache.length[:, None] + tree.sum(-1) - 1
        scored, pending = config.peek(params, tokens[:, 4:8], cache, mask=tree, positions=positions)
        cache = config.commit(pending, jnp.minimum(kept, 2))
        return scored.logits, config.peek(params, tokens[:, 8:], cache)[0].logits

    kept = jnp.asarray([[4, 1], [2, 3]])
    at_once = quick_jit(jax.vmap(verbs))(tokens, TREES, kept)
    for i in range(2):
        for ours, expected in zip(at_once, quick_jit(verbs)(tokens[i], TREES[i], kept[i]), strict=True):
            np.testing.assert_allclose(ours[i], expected, rtol=2e-4, atol=2e-5)


ROWS_ON_TWO_DEVICES = """
import functools, sys
sys.path[:0] = sys.argv[1:]
import jax, numpy as np
from jax.sharding import Mesh, PartitionSpec as P
from model_helpers import ARCHITECTURES, draw_tokens, quick_jit, random_params

mesh = Mesh(jax.devices(), ("rows",))
assert mesh.size == 2
config = ARCHITECTURES["hybrid_moe"]
params, tokens, cache = random_params(config.spec()), draw_tokens(4, 5), config.init_cache(4, 300)

def verbs(params, tokens, cache):
    scored, pending = config.peek(params, tokens[:, :4], cache, valid=tokens[:, :4] > 5)
    cache = config.commit(pending)
    return scored.logits, config.peek(params, tokens[:, 4:], cache)[0].logits, cache

def slope(params, tokens):
    return jax.grad(lambda params: (config.forward(params, tokens) ** 2).sum())(params)

for function, arguments, out in ((verbs, (tokens, cache), P("rows")), (slope, (tokens,), P())):
    in_specs = (P(), *[P("rows")] * len(arguments))
    by_rows = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out)
    ours, expected = (quick_jit(f)(params, *arguments) for f in (by_rows, function))
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-3, atol=1e-3), ours, expected)
"""


TWO_DEVICES = "--xla_force_host_platform_device_count=2"


@pytest.mark.sweep
def test_rows_may_lie_on_several_devices():
    """Both verbs and the gradient under `jax.shard_map`, rows apart, parameters alike on two devices."""
    tests = Path(__file__).parents[1]
    subprocess.run(
        [sys.executable, "-c", ROWS_ON_TWO_DEVICES, tests],
        env=os.environ | {"JAX_PLATFORMS": "cpu", "XLA_FLAGS": f"{os.environ['XLA_FLAGS']} {TWO_DEVICES}"},
        check=True,
    )


def test_models_with_recurrent_layers_refuse_what_is_no_tree_before_compilation():
    everyone = jnp.ones((4, 4), bool)
    for name, refuses in (("attention", False), ("hybrid", True)):
        config = ARCHITECTURES[name]
        params, cache = abstract_params(config.spec()), config.init_cache(2, 8)
        run = functools.partial(
            jax.eval_shape, lambda p, c=config, k=cache: c.peek(p, TOKENS[:, :4], k, mask=everyone)
        )
        if not refuses:
            run(params)
            continue
        with pytest.raises(ValueError, match="recurrent layers expected each row to name the token itself"):
            run(params)
