import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers.models.embeddings import apply_rotary_emb
from diffusers.models.transformers.transformer_flux import FluxPosEmbed
from diffusers_modules import draw
from model_helpers import quick_jit
from transformers.models.qwen2_vl.configuration_qwen2_vl import Qwen2VLTextConfig
from transformers.models.qwen2_vl.modeling_qwen2_vl import Qwen2VLRotaryEmbedding, apply_rotary_pos_emb

from jaxmodels.layers.attention import Attention
from jaxmodels.layers.rope import Rope, apply_rope, rope_to_hf
from jaxmodels.layers.rope_axes import AxesRope, grid_positions
from jaxmodels.layers.spec import init_params
from jaxmodels.layers.window import fresh_window

FLUX = AxesRope(axes=(4, 6, 6))


def test_rotations_of_flux():
    text, image = np.zeros((1, 5, 3), int), grid_positions(3, 7, leading=(0,))
    ids = np.concatenate([text, image], axis=1)
    q, tq = draw(1, 26, 2, 16)
    theirs = FluxPosEmbed(10000, [4, 6, 6])(torch.tensor(ids[0]))
    expected = apply_rotary_emb(tq, theirs, sequence_dim=1).numpy()
    np.testing.assert_allclose(apply_rope(q, FLUX.at(ids), FLUX.style), expected, atol=1e-6)
    traced = apply_rope(q, FLUX.at(jnp.asarray(ids)), FLUX.style)
    np.testing.assert_allclose(traced, expected, atol=1e-5)


def test_one_series_cut_into_axes_is_the_rotation_of_qwen2_vl():
    rope = AxesRope(axes=(4, 6, 6), style="half_split", series="whole")
    ids = np.random.default_rng(0).integers(40, size=(2, 5, 3))
    sections = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 3, 3]}
    config = Qwen2VLTextConfig(hidden_size=32, num_attention_heads=2, rope_parameters=sections)
    (q, tq), (k, tk) = draw(2, 5, 2, 16), draw(2, 5, 2, 16, seed=1)
    turned = Qwen2VLRotaryEmbedding(config)(tq, torch.tensor(ids).permute(2, 0, 1))
    theirs = apply_rotary_pos_emb(tq.transpose(1, 2), tk.transpose(1, 2), *turned)
    rotations = rope.at(ids)
    for ours, expected in zip((q, k), theirs, strict=True):
        rotated = apply_rope(ours, rotations, rope.style)
        np.testing.assert_allclose(rotated, expected.transpose(1, 2).numpy(), atol=1e-6)


def test_axes_that_alternate_turn_pairs_in_turns():
    rope, places = AxesRope(axes=(8, 8), series="alternating"), grid_positions(2, 3)
    in_stretches = AxesRope(axes=(8, 8)).at(places)
    for ours, wanted in zip(jax.tree.leaves(rope.at(places)), jax.tree.leaves(in_stretches), strict=True):
        np.testing.assert_array_equal(ours[..., ::2], wanted[..., :4])
        np.testing.assert_array_equal(ours[..., 1::2], wanted[..., 4:])


def test_text_turns_as_under_a_rope_of_one_axis():
    axes = AxesRope(axes=(4, 6, 6), style="half_split", series="whole")
    rope, positions = Rope(rotary_dim=16), jnp.arange(9)[None]
    ours, wanted = (r.rotations(positions, jnp.array([9])) for r in (axes, rope))
    np.testing.assert_allclose(ours.cos, wanted.cos, atol=1e-6)
    np.testing.assert_allclose(ours.sin, wanted.sin, atol=1e-6)


def test_an_attention_layer_turns_by_the_positions_of_its_window():
    layer = Attention(d_model=16, num_heads=1, num_kv_heads=1, head_dim=16, rope=FLUX)
    params = init_params(layer.spec(), jax.random.key(0))
    x = draw(1, 6, 16)[0]
    window = fresh_window(jnp.zeros((1, 6), jnp.int32))
    moved = FLUX.at(grid_positions(2, 3, leading=(5,)))
    still = FLUX.at(grid_positions(2, 3, leading=(0,)))

    @quick_jit
    def forward(rotations):
        return layer.forward(params, x, dataclasses.replace(window, rotations=rotations))

    by_rotations = [np.asarray(forward({FLUX: rotations})) for rotations in (still, moved)]
    np.testing.assert_allclose(*by_rotations, atol=1e-6)  # only differences of positions matter
    assert np.abs(forward({}) - by_rotations[0]).max() > 1e-3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"axes": (4, 5)}, r"even numbers, got \(4, 5\)"),
        ({"axes": (4,), "theta": 1.0}, "more than 1, got 1.0"),
        ({"axes": (4,), "series": "each"}, "got 'each'"),
        ({"axes": (4, 6), "series": "alternating"}, r"the same size, got \(4, 6\)"),
        ({"axes": (4,), "style": "mixed"}, "mixed"),
    ],
)
def test_what_cannot_be_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        AxesRope(**fields)


def test_positions_of_other_axes_are_refused():
    with pytest.raises(ValueError, match=r"expected positions \[B, S, 3\].*got \[1, 6, 2\]"):
        FLUX.at(grid_positions(2, 3))
    with pytest.raises(ValueError, match="AxesRope has no Hugging Face rope_type"):
        rope_to_hf(FLUX, 16)
