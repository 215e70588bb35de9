"""The scanned stack equals the unrolled one, and its program does not grow with depth."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.mlp import GatedMLP
from jaxmodels.layers.norm import GatedRMSNorm, RMSNorm
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.spec import abstract_params, init_params, walk
from jaxmodels.layers.ssd_mixer import SSDMixer
from jaxmodels.models.block import Block
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.scanned import ScannedDecoder

NORM = RMSNorm(dim=16)
ATTENTION = Block(
    mixer_norm=NORM,
    mixer=Attention(d_model=16, num_heads=2, num_kv_heads=1, head_dim=8, rope=Rope(rotary_dim=8)),
    ffn_norm=NORM,
    ffn=GatedMLP(d_model=16, d_ff=24),
)
SSD = Block(
    mixer_norm=NORM,
    mixer=SSDMixer(d_model=16, num_heads=2, head_dim=8, state_dim=4, norm=GatedRMSNorm(dim=16)),
)
TOKENS = jnp.asarray(np.random.default_rng(0).integers(0, 19, (2, 11)))


def decoder(*blocks: Block) -> Decoder:
    return Decoder(vocab_size=19, d_model=16, blocks=blocks, final_norm=NORM)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("blocks", [(ATTENTION,) * 3, (SSD, ATTENTION) * 2], ids=["uniform", "hybrid"])
def test_equals_the_unrolled_decoder(blocks):
    plain = decoder(*blocks)
    scanned = ScannedDecoder(plain)
    params = init_params(plain.spec(), jax.random.key(0))
    stacked = scanned.stack(params)

    def loss(model):
        return lambda p: (model.forward(p, TOKENS) ** 2).mean()

    expected, expected_grads = jax.jit(jax.value_and_grad(loss(plain)))(params)
    value, grads = jax.jit(jax.value_and_grad(loss(scanned)))(stacked)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for (path, a), (_, b) in zip(walk(scanned.unstack(grads)), walk(expected_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6, err_msg=path)


@pytest.mark.sweep
def test_stack_and_unstack_are_inverse_and_fit_the_spec():
    plain = decoder(*(SSD, ATTENTION) * 2)
    scanned = ScannedDecoder(plain)
    params = init_params(plain.spec(), jax.random.key(0))
    back = dict(walk(scanned.unstack(scanned.stack(params))))
    for path, leaf in walk(params):
        assert (back[path] == leaf).all(), path
    shapes = {path: leaf.shape for path, leaf in walk(scanned.stack(params))}
    assert shapes == {path: p.shape for path, p in walk(scanned.spec())}
    drawn = init_params(scanned.spec(), jax.random.key(0))
    w_q = drawn["blocks"]["1"]["mixer"]["w_q"]
    assert not np.allclose(w_q[0], w_q[1])


def test_the_program_does_not_grow_with_depth():
    def lines(depth):
        model = ScannedDecoder(decoder(*(ATTENTION,) * depth))
        tokens = jax.ShapeDtypeStruct((1, 8), jnp.int32)
        grad = jax.jit(jax.grad(lambda p, t: model.forward(p, t).sum()))
        return len(grad.lower(abstract_params(model.spec()), tokens).as_text().splitlines())

    assert lines(12) == lines(2)


def test_blocks_without_a_pattern_are_refused():
    other = replace(ATTENTION, ffn=GatedMLP(d_model=16, d_ff=20))
    with pytest.raises(ValueError, match="3 blocks repeat no pattern"):
        ScannedDecoder(decoder(SSD, ATTENTION, other))
