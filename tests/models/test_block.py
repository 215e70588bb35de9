import dataclasses
import functools

import jax
import jax.numpy as jnp
import model_helpers
import numpy as np
import pytest
from model_helpers import D_MODEL, attention, decoder, draw_tokens, forward, quick_jit, random_params, ssd

from jaxmodels.layers.mlp import MLP, GatedMLP
from jaxmodels.layers.norm import LayerNorm, RMSNorm
from jaxmodels.layers.spec import init_state
from jaxmodels.layers.window import fresh_window
from jaxmodels.models.block import Block, NormedResidualBlock, ParallelBlock, Stream, peek
from jaxmodels.models.post_norm_block import PostNormBlock
from jaxmodels.models.scaled_block import ScaledBlock

TOKENS = draw_tokens(2, 5)
NORM, OTHER = RMSNorm(dim=D_MODEL), LayerNorm(dim=D_MODEL)
FFN = GatedMLP(d_model=D_MODEL, d_ff=24)
BLOCKS = {
    "pre_norm": Block(mixer_norm=NORM, mixer=attention(), ffn_norm=NORM, ffn=FFN),
    "post_norm": Block(mixer=attention(), mixer_post_norm=NORM, ffn=FFN, ffn_post_norm=OTHER),
    "scaled": Block(
        mixer_norm=NORM, mixer=ssd(), mixer_post_norm=NORM, ffn_norm=OTHER, ffn=FFN, residual_scale=0.3
    ),
    "learned_scale": ScaledBlock(block=Block(mixer_norm=NORM, mixer=ssd(), ffn=FFN, ffn_post_norm=OTHER)),
    "mixer_alone": Block(mixer_norm=NORM, mixer=ssd()),
    "ffn_alone": Block(ffn_norm=NORM, ffn=FFN),
    "parallel": ParallelBlock(mixer_norm=NORM, mixer=attention(), ffn=FFN),
    "parallel_two_norms": ParallelBlock(
        mixer_norm=NORM, mixer=attention(), ffn_norm=OTHER, ffn=MLP(d_model=D_MODEL, d_ff=24)
    ),
    "normed_residual": NormedResidualBlock(
        mixer_norm=NORM, mixer=ssd(), ffn_norm=OTHER, ffn=FFN,
        mixer_alpha=1.5, mixer_beta=0.6, ffn_alpha=0.7, ffn_beta=1.3,
    ),
    "normed_sums": PostNormBlock(mixer=attention(), mixer_norm=NORM, ffn=FFN, ffn_norm=OTHER),
}  # fmt: skip


def by_definition(block, params, x, window):
    """The block written out, its layers taken as given."""
    if isinstance(block, ScaledBlock):
        return params["scale"] * by_definition(block.block, params, x, window)

    def norm(name, value):
        layer = getattr(block, name, None)
        return value if layer is None else layer(params[name], value)

    def mix(value):
        return block.mixer.forward(params["mixer"], value, window)

    def feed(value):
        return block.ffn(params["ffn"], value)

    if isinstance(block, ParallelBlock):
        read = norm("mixer_norm", x)
        return x + mix(read) + feed(read if block.ffn_norm is None else norm("ffn_norm", x))
    if isinstance(block, NormedResidualBlock):
        x = norm("mixer_norm", x)
        x = norm("ffn_norm", block.mixer_alpha * x + block.mixer_beta * mix(x))
        return block.ffn_alpha * x + block.ffn_beta * feed(x)
    if isinstance(block, PostNormBlock):
        x = norm("mixer_norm", x + mix(x))
        return norm("ffn_norm", x + feed(x))
    if block.mixer is not None:
        x = x + block.residual_scale * norm("mixer_post_norm", mix(norm("mixer_norm", x)))
    if block.ffn is not None:
        x = x + block.residual_scale * norm("ffn_post_norm", feed(norm("ffn_norm", x)))
    return x


@pytest.mark.parametrize("name", BLOCKS)
def test_blocks_are_their_definition(name):
    block = BLOCKS[name]
    params = random_params(block.spec())
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 5, D_MODEL)), jnp.float32)
    expected = quick_jit(lambda p, x: by_definition(block, p, x, fresh_window(TOKENS)))(params, x)
    stream = Stream(hidden=x, embedded=x)

    ours = quick_jit(lambda p, s: block.forward(p, s, fresh_window(TOKENS)))(params, stream)
    np.testing.assert_allclose(ours.hidden, expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(ours.embedded, x)
    state = init_state(block, 2, 9, jnp.float32)
    peeked, pending = quick_jit(lambda p, s: peek(block, p, s, state, fresh_window(TOKENS)))(params, stream)
    np.testing.assert_allclose(peeked.hidden, expected, rtol=1e-5, atol=1e-5)
    assert jax.tree.structure(block.commit(pending)) == jax.tree.structure(state)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give a mixer, an ffn, or both"),
        ({"mixer": ssd(), "ffn_norm": NORM}, "ffn_norm is given without ffn"),
        ({"ffn": FFN, "mixer_post_norm": NORM}, "mixer_post_norm is given without mixer"),
    ],
)
def test_half_a_layer_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        Block(**fields)


@pytest.mark.sweep
def test_a_decoder_of_every_kind_of_block():
    """Windows of any split, with a block that has no state among the others."""
    config = dataclasses.replace(decoder(ssd()), blocks=tuple(BLOCKS.values()))
    params = random_params(config.spec())
    whole = forward(config, params, TOKENS)
    peek_one = quick_jit(functools.partial(config.peek, params))
    cache = config.init_cache(2, 9)
    for start, stop in ((0, 2), (2, 3), (3, 5)):
        scored, pending = peek_one(TOKENS[:, start:stop], cache)
        np.testing.assert_allclose(scored.logits, whole[:, start:stop], rtol=1e-4, atol=1e-4)
        cache = config.commit(pending)
    again = config.commit(pending, jnp.zeros(2, jnp.int32))
    np.testing.assert_array_equal(again.length, [3, 3])


def test_embeddings_and_logits_can_be_scaled():
    plain = decoder(attention())
    params = random_params(plain.spec())
    scaled = dataclasses.replace(plain, embed_scale=1.5, logit_scale=0.5, logit_softcap=2.0)
    by_hand = {**params, "embed": {"weight": 1.5 * params["embed"]["weight"]}}
    expected = 2.0 * np.tanh(0.5 * np.asarray(forward(plain, by_hand, TOKENS)) / 2.0)
    np.testing.assert_allclose(forward(scaled, params, TOKENS), expected, rtol=1e-5, atol=1e-5)


def test_learned_positions_follow_the_history():
    config = dataclasses.replace(decoder(attention(rope=None)), learned_positions=9)
    params = random_params(config.spec())
    whole = forward(config, params, TOKENS)
    swapped = {**params, "positions": {"weight": params["positions"]["weight"][::-1]}}
    assert np.abs(forward(config, swapped, TOKENS) - whole).max() > 1e-2
    _, pending = model_helpers.peek(config, params, TOKENS[:, :3], config.init_cache(2, 9))
    logits, _ = model_helpers.peek(config, params, TOKENS[:, 3:], model_helpers.commit(config, pending))
    np.testing.assert_allclose(logits, whole[:, 3:], rtol=1e-4, atol=1e-4)
