"""What a decoder makes of its windows: rotations that all layers share, masks, tokens of any places."""

import functools

import jax
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, attention, decoder, draw_tokens, quick_jit, random_params

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
