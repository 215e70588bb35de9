import dataclasses

import jax
import jax.numpy as jnp
import moe_oracle
import numpy as np
import pytest
from model_helpers import quick_jit, random_params

from jaxmodels.decoding.generation import check_causal
from jaxmodels.layers.moe import Capacity, RouterContext, VersatileFFN
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder

LAYER = VersatileFFN(d_model=6, d_ff=12, num_experts=4, top_k=2, max_depth=3)


def ffn(p, x, hidden=slice(None)):
    gate = x @ p["w_gate"][hidden].T
    return (gate * moe_oracle.sigmoid(gate) * (x @ p["w_up"][hidden].T)) @ p["w_down"][:, hidden].T


def one_token(p, x):
    """Slices chosen for the token, and the feed-forward over and over."""
    probabilities = moe_oracle.softmax(x @ p["router"]["w"].T)
    chosen = np.argsort(-probabilities)[:2]
    weights = probabilities[chosen] / probabilities[chosen].sum()
    pairs = zip(chosen, weights, strict=True)
    wide = sum(w * ffn(p["ffn"], x, slice(3 * e, 3 * e + 3)) for e, w in pairs)
    chances = moe_oracle.softmax(x @ p["depth"]["w"].T)
    deep, hidden = 0, x
    for chance in chances:
        hidden = ffn(p["ffn"], hidden)
        deep = deep + chance * hidden
    easy = (3 - chances @ [1, 2, 3]) / 3
    return easy * wide + (1 - easy) * deep


def test_blends_slices_and_repetitions_of_one_feed_forward():
    params = random_params(LAYER.spec())
    x = np.random.default_rng(1).standard_normal((2, 4, 6))
    y = quick_jit(LAYER)(params, jnp.asarray(x, jnp.float32))
    p = moe_oracle.in_float64(params)
    for at in np.ndindex(2, 4):
        np.testing.assert_allclose(y[at], one_token(p, x[at]), rtol=1e-4, atol=1e-5)
    grads = quick_jit(jax.grad(lambda p: (LAYER(p, jnp.asarray(x, jnp.float32)) ** 2).sum()))(params)
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))


def test_tokens_that_share_room_cannot_be_decoded_one_by_one():
    layer = dataclasses.replace(LAYER, dispatch=Capacity())
    norm = RMSNorm(dim=6)
    config = Decoder(vocab_size=9, d_model=6, blocks=(Block(ffn_norm=norm, ffn=LAYER),) * 2, final_norm=norm)
    check_causal(config)
    blocks = (config.blocks[0], dataclasses.replace(config.blocks[1], ffn=layer))
    with pytest.raises(ValueError, match=r"block 1 cannot decode token by token: with VersatileFFN"):
        check_causal(dataclasses.replace(config, blocks=blocks))


def test_padding_takes_no_room():
    layer, params = dataclasses.replace(LAYER, dispatch=Capacity(factor=0.5)), random_params(LAYER.spec())
    x = jnp.asarray(np.random.default_rng(2).standard_normal((1, 8, 6)), jnp.float32)
    valid = jnp.arange(8)[None] >= 4
    routed = quick_jit(layer.routed)
    y, routing = routed(params, x, RouterContext(valid=valid))
    other, _ = routed(params, jnp.where(valid[..., None], x, 1.0), RouterContext(valid=valid))
    np.testing.assert_array_equal(y[:, 4:], other[:, 4:])
    assert routing.experts.shape == (1, 8, 2)
    crowded, _ = routed(params, jnp.where(valid[..., None], x, x[:, 4:5]), RouterContext())
    assert np.abs(crowded[:, 4:] - y[:, 4:]).max() > 1e-3  # where they are real tokens, they do take it


def test_it_has_the_parameters_of_one_feed_forward_and_two_gates():
    assert LAYER.spec()["ffn"]["w_up"].shape == (12, 6)
    assert LAYER.flops_per_token(1) == 2 * 6 * 7 + 6 * 6 * 12 // 2 + 3 * 6 * 6 * 12


def test_slices_must_be_even():
    with pytest.raises(ValueError, match=r"divide d_ff=12, got 5"):
        VersatileFFN(d_model=6, d_ff=12, num_experts=5, top_k=2, max_depth=3)
    with pytest.raises(ValueError, match=r"num_experts=4, got 6"):
        VersatileFFN(d_model=6, d_ff=12, num_experts=4, top_k=6, max_depth=3)
    with pytest.raises(ValueError, match="max_depth must be at least 1, got 0"):
        VersatileFFN(d_model=6, d_ff=12, num_experts=4, top_k=2, max_depth=0)
