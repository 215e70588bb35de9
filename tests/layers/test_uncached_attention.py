"""Attention without a history, each form against the layer of diffusers that has it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.attention import JointTransformerBlock
from diffusers.models.attention_processor import Attention as TheirAttention
from diffusers.models.attention_processor import AttnProcessor2_0, SanaLinearAttnProcessor2_0
from diffusers.models.transformers.transformer_flux import FluxAttention, FluxPosEmbed
from diffusers_modules import assert_close, attention_params, draw, randomised
from model_helpers import quick_jit

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cross_attention import CrossAttention
from jaxmodels.layers.joint_attention import JointAttention
from jaxmodels.layers.linear_attention import ReLUAttention
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.rope_axes import AxesRope, grid_positions
from jaxmodels.layers.spec import abstract_params, check_params
from jaxmodels.layers.window import fresh_window

HEADS, WIDTH = 3, 8
D = HEADS * WIDTH
ADDED = ("add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
ADDED_NORMS = ("norm_added_q", "norm_added_k")


def attention(**fields):
    sizes = {"d_model": D, "num_heads": HEADS, "num_kv_heads": HEADS, "head_dim": WIDTH}
    return Attention(**{"qkv_bias": True, "out_bias": True, **sizes, **fields})


def window(batch, size, valid=None):
    return fresh_window(jnp.zeros((batch, size), jnp.int32), valid, BIDIRECTIONAL)


def forward(layer, params, *inputs):
    """The layer as one program, which compiles sooner than its operations one by one."""
    return quick_jit(lambda params: layer.forward(params, *inputs))(params)


@pytest.mark.parametrize("masked", [False, True])
def test_cross_attention_is_that_of_diffusers(masked):
    theirs = randomised(
        TheirAttention(
            D, cross_attention_dim=10, heads=HEADS, dim_head=WIDTH, bias=True, processor=AttnProcessor2_0()
        )
    )
    layer = CrossAttention(attention=attention(), d_context=10)
    params = attention_params(theirs, HEADS)
    check_params(layer.spec(), params)
    (x, tx), (c, tc) = draw(2, 5, D), draw(2, 7, 10, seed=1)
    seen = np.arange(7) < np.array([[7], [4]])
    bias = torch.tensor(np.where(seen, 0.0, -10000.0), dtype=torch.float32)[:, None] if masked else None
    ours = forward(layer, params, x, c, window(2, 5), jnp.asarray(seen) if masked else None)
    assert_close(ours, theirs(tx, encoder_hidden_states=tc, attention_mask=bias))


@pytest.mark.parametrize("qk_norm", [None, "rms_norm"])
@pytest.mark.parametrize("ends_context", [False, True])
def test_joint_attention_is_that_of_sd3(qk_norm, ends_context):
    block = JointTransformerBlock(D, HEADS, WIDTH, context_pre_only=ends_context, qk_norm=qk_norm)
    theirs = randomised(block.attn)
    norm = RMSNorm(dim=WIDTH, eps=1e-6, axis=None) if qk_norm else None
    one = attention(query_norm=norm, key_norm=norm)
    layer = JointAttention(stream=one, context=one, ends_context=ends_context)
    params = {
        "stream": attention_params(theirs, HEADS),
        "context": attention_params(theirs, HEADS, ADDED, ADDED_NORMS),
    }
    check_params(layer.spec(), params)
    (x, tx), (c, tc) = draw(2, 5, D), draw(2, 3, D, seed=1)
    ours, our_context = forward(layer, params, x, c, window(2, 5), window(2, 3))
    wanted, wanted_context = theirs(tx, encoder_hidden_states=tc)
    assert_close(ours, wanted)
    if ends_context:
        assert our_context is None
    else:
        assert_close(our_context, wanted_context)


def test_joint_attention_with_rotations_is_that_of_flux():
    theirs = randomised(FluxAttention(D, HEADS, WIDTH, bias=True, added_kv_proj_dim=D, out_dim=D))
    rope, norm = AxesRope(axes=(2, 2, 4)), RMSNorm(dim=WIDTH, eps=1e-5, axis=None)
    one = attention(query_norm=norm, key_norm=norm, rope=rope)
    layer = JointAttention(stream=one, context=one)
    params = {
        "stream": attention_params(theirs, HEADS),
        "context": attention_params(theirs, HEADS, ADDED, ADDED_NORMS),
    }
    (x, tx), (c, tc) = draw(2, 6, D), draw(2, 4, D, seed=1)
    image, text = grid_positions(2, 3, leading=(0,)), np.zeros((1, 4, 3), int)
    windows = [
        dataclasses.replace(window(2, ids.shape[1]), rotations={rope: rope.at(np.repeat(ids, 2, axis=0))})
        for ids in (image, text)
    ]
    ours = forward(layer, params, x, c, *windows)
    turned = FluxPosEmbed(10000, [2, 2, 4])(torch.tensor(np.concatenate([text, image], axis=1)[0]))
    for mine, expected in zip(ours, theirs(tx, tc, image_rotary_emb=turned), strict=True):
        assert_close(mine, expected)


def test_padding_of_a_context_is_seen_by_no_token():
    layer = JointAttention(stream=attention(), context=attention())
    params = jax.tree.map(lambda p: 0.3 * draw(*p.shape, seed=p.size)[0], abstract_params(layer.spec()))
    x, c = draw(1, 5, D)[0], draw(1, 6, D, seed=1)[0]
    padded = forward(layer, params, x, c.at[:, 4:].set(9.0), window(1, 5), window(1, 6, jnp.array([4])))
    alone = forward(layer, params, x, c[:, :4], window(1, 5), window(1, 4))
    np.testing.assert_allclose(padded[0], alone[0], atol=1e-5)
    np.testing.assert_allclose(padded[1][:, :4], alone[1], atol=1e-5)


@pytest.mark.parametrize("qk_norm", [None, "rms_norm_across_heads"])
def test_linear_attention_is_that_of_sana(qk_norm):
    theirs = randomised(
        TheirAttention(
            D,
            heads=HEADS,
            dim_head=WIDTH,
            kv_heads=HEADS,
            qk_norm=qk_norm,
            processor=SanaLinearAttnProcessor2_0(),
        )
    )
    norm = RMSNorm(dim=D, eps=1e-5, axis=None) if qk_norm else None
    layer = ReLUAttention(
        attention=attention(
            qkv_bias=False, query_norm=norm, key_norm=norm, norm_across_heads=norm is not None
        )
    )
    params = attention_params(theirs, HEADS)
    check_params(layer.spec(), params)
    x, tx = draw(2, 9, D)
    ours = forward(layer, params, x, window(2, 9))
    assert_close(ours, theirs(tx))
    padded = forward(layer, params, x, window(2, 9, jnp.array([9, 6])))
    np.testing.assert_allclose(padded[1, :6], forward(layer, params, x[1:, :6], window(1, 6))[0], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: CrossAttention(attention=attention(rope=AxesRope(axes=(8,))), d_context=4), "rope=AxesRope"),
        (lambda: ReLUAttention(attention=attention(softcap=3.0)), "softcap=3.0"),
        (lambda: ReLUAttention(attention=attention(num_kv_heads=1)), "num_kv_heads=1 must equal num_heads=3"),
        (
            lambda: JointAttention(stream=attention(sliding_window=2), context=attention()),
            "sliding_window=2 of its attention",
        ),
        (
            lambda: JointAttention(stream=attention(), context=attention(num_heads=6)),
            "stream has num_heads=3, context 6",
        ),
    ],
)
def test_what_has_no_meaning_without_a_history_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
