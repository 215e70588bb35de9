"""VAR's autoencoder: codes of several scales against a torch pass over the published tensors."""

import itertools

import jax.numpy as jnp
import numpy as np
import published_next_scale as published
import pytest
import torch
from diffusers_modules import assert_saved_alike, draw
from model_helpers import quick_jit
from next_scale_models import SIDES, VQVAE, as_torch, codes_model
from next_scale_models import published as tensors_of

from jaxmodels.checkpoints.diffusers import load_autoencoder, save_autoencoder
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.autoencoders.pyramid import Pyramid
from jaxmodels.models.hf_config import ConfigError


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    directory = tmp_path_factory.mktemp("vqvae")
    config, params = codes_model()
    return config, params, tensors_of(save_autoencoder, config, params, directory), directory


def test_codes_and_latents_are_those_of_the_published_rule(saved):
    config, params, state, _ = saved
    latents, _ = draw(2, 4, 4, 6)
    found = np.asarray(quick_jit(config.pyramid.codes)(params, latents))
    expected = published.quantised(state, SIDES, as_torch(latents))
    np.testing.assert_array_equal(found, torch.cat(expected, 1).numpy())

    behind = list(itertools.accumulate(published.added(state, SIDES, i, c) for i, c in enumerate(expected)))
    made = quick_jit(config.pyramid.latents)(params, found)
    np.testing.assert_allclose(as_torch(made), behind[-1], atol=1e-5)
    shown = torch.cat([published.reduced(f, side) for f, side in zip(behind, SIDES[1:], strict=False)], 1)
    inputs = quick_jit(config.pyramid.inputs)(params, found)
    np.testing.assert_allclose(np.asarray(inputs), shown, atol=1e-5)


def test_defaults_are_written():
    given = {key: value for key, value in VQVAE.items() if key != "share_quant_resi"}
    config = AUTOENCODERS.read(given)
    assert AUTOENCODERS.write(config) | given == AUTOENCODERS.write(config)


def test_files_are_written_as_they_were_read(saved, tmp_path):
    *_, directory = saved
    assert_saved_alike(load_autoencoder, save_autoencoder, directory, tmp_path / "again")


def test_tensors_have_the_published_names(saved):
    *_, state, _ = saved
    expected = {
        "encoder.down.0.block.0.conv1.weight",
        "encoder.down.0.downsample.conv.weight",
        "encoder.down.1.block.0.nin_shortcut.bias",
        "encoder.down.1.attn.0.qkv.weight",
        "encoder.mid.attn_1.proj_out.weight",
        "decoder.up.1.block.1.norm2.weight",
        "decoder.up.1.upsample.conv.bias",
        "decoder.norm_out.weight",
        "quantize.quant_resi.qresi_ls.3.weight",
        "quant_conv.weight",
        "post_quant_conv.bias",
    }
    assert expected <= state.keys()
    assert state["encoder.down.1.attn.0.qkv.weight"].shape == (24, 8, 1, 1)


def test_images_become_codes_and_pixels(saved):
    config, params, *_ = saved
    images = jnp.tanh(draw(2, 8, 8, 1)[0])
    codes = quick_jit(config.codes)(params, images)
    assert codes.shape == (2, 30)
    assert quick_jit(config.pixels)(params, codes).shape == images.shape
    with pytest.raises(ValueError, match=r"images: expected \['B', 8, 8, 1\], got \[2, 16, 16, 1\]"):
        config.codes(params, jnp.zeros((2, 16, 16, 1)))


def test_scales_go_by_the_published_convolutions():
    sides = (1, 2, 3, 4, 5, 6, 8, 10, 13, 16)
    pyramid = Pyramid(sides=sides, num_codes=4, code_width=2)
    assert [pyramid.refinement_of(i) for i in range(10)] == [0, 0, 1, 1, 1, 2, 2, 3, 3, 3]


@pytest.mark.parametrize("share", [0, 1])
def test_convolutions_of_each_scale_or_of_all_are_read(share, tmp_path):
    config, params = codes_model(share_quant_resi=share)
    state = tensors_of(save_autoencoder, config, params, tmp_path)
    name = "quantize.quant_resi.3.weight" if share == 0 else "quantize.quant_resi.qresi.weight"
    assert name in state
    assert load_autoencoder(tmp_path)[0] == config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"using_znorm": True}, "'using_znorm' has the value True"),
        ({"v_patch_nums": [1, 4, 3]}, r"sides must be at least two, and rise, got \(1, 4, 3\)"),
        ({"v_patch_nums": [4]}, "sides must be at least two"),
        ({"quant_resi": 2}, "'quant_resi' must be from -1 to 1, got 2"),
        ({"quant_conv_ks": 2}, "kernel must be odd, got 2"),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        AUTOENCODERS.read(VQVAE | changes)
