"""The autoencoder of latent diffusion against `diffusers`: distributions, pixels, files both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import AutoencoderKL as TheirAutoencoderKL
from diffusers_modules import assert_close, assert_saved_alike, draw, randomised
from model_helpers import quick_jit

from jaxmodels.checkpoints.diffusers import load_autoencoder, save_autoencoder
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.autoencoders.autoencoder import Autoencoder
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.hf_config import ConfigError

STAGES = {
    "down_block_types": ["DownEncoderBlock2D"] * 3,
    "up_block_types": ["UpDecoderBlock2D"] * 3,
    "block_out_channels": [6, 12, 12],
    "norm_num_groups": 3,
    "layers_per_block": 2,
}
# As those of Stable Diffusion and PixArt; as those of SD3 and Flux, which have no convolutions beside the
# latents; and one with attention outside the middle, its convolutions on one side alone.
CASES = {
    "quantised": {**STAGES, "latent_channels": 4, "scaling_factor": 0.13025, "force_upcast": True},
    "shifted": {
        **STAGES,
        "latent_channels": 16,
        "scaling_factor": 1.5305,
        "shift_factor": 0.0609,
        "use_quant_conv": False,
        "use_post_quant_conv": False,
    },
    "attention": {
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [6, 12],
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        "latent_channels": 5,
        "norm_num_groups": 3,
        "use_quant_conv": False,
        "mid_block_add_attention": False,
    },
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    theirs = randomised(TheirAutoencoderKL(**CASES[request.param]))
    directory = tmp_path_factory.mktemp("kl")
    theirs.save_pretrained(directory)
    return theirs, directory


@pytest.mark.wide(every_run=1)
def test_distributions_and_pixels_are_those_of_diffusers(saved):
    theirs, directory = saved
    config, params = load_autoencoder(directory)
    assert isinstance(config, Autoencoder)
    images, their_images = draw(2, 12, 20, config.image_channels)
    noise, their_noise = draw(2, 12 // config.factor, 20 // config.factor, config.latent_channels, seed=1)
    with torch.no_grad():
        found = theirs.encode(their_images.movedim(-1, 1)).latent_dist
        drawn = found.mean + found.std * their_noise.movedim(-1, 1)
        scaled = (drawn - (theirs.config.shift_factor or 0.0)) * theirs.config.scaling_factor
        pixels = theirs.decode(scaled / theirs.config.scaling_factor + (theirs.config.shift_factor or 0.0))
    ours = quick_jit(config.encode)(params, images)
    assert_close(ours.mean, found.mean.movedim(1, -1))
    assert_close(ours.log_variance, found.logvar.movedim(1, -1))
    assert_close(ours.divergence(), found.kl())
    latents = config.scaled(ours.sample(noise))
    assert_close(latents, scaled.movedim(1, -1))
    assert_close(quick_jit(config.pixels)(params, latents), pixels.sample.movedim(1, -1))
    np.testing.assert_array_equal(quick_jit(config.latents)(params, images), config.scaled(ours.mean))


def test_files_are_written_as_they_were_read(saved, tmp_path):
    theirs, directory = saved
    assert_saved_alike(load_autoencoder, save_autoencoder, directory, tmp_path / "again")
    again = TheirAutoencoderKL.from_pretrained(tmp_path / "again")
    assert again.config.shift_factor == theirs.config.shift_factor


def test_log_variances_are_clipped():
    config = AUTOENCODERS.read({"_class_name": "AutoencoderKL", **CASES["attention"]})
    params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), abstract_params(config.spec()))
    params["encoder"]["conv_out"]["b"] = np.where(np.arange(10) % 2, 1e3, -1e3).astype(np.float32)
    found = quick_jit(config.encode)(params, np.zeros((1, 4, 4, 1), np.float32))
    assert set(np.unique(found.log_variance)) == {-30.0, 20.0}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latents_mean": [0.0] * 4}, "'latents_mean' has the value"),
        ({"out_channels": 4}, "'out_channels' must equal 'in_channels' = 3"),
        ({"scaling_factor": 0}, "'scaling_factor'.* got 0"),
        ({"up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 2}, "in reverse"),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        AUTOENCODERS.read({"_class_name": "AutoencoderKL", **CASES["quantised"], **changes})


def test_shapes_that_do_not_fit_are_refused():
    config = AUTOENCODERS.read({"_class_name": "AutoencoderKL", **CASES["quantised"]})
    params = abstract_params(config.spec())
    with pytest.raises(ValueError, match=r"expected \[B, H, W, 3\], got \[1, 8, 8, 1\]"):
        config.encode(params, jnp.zeros((1, 8, 8, 1)))
    with pytest.raises(ValueError, match=r"multiples of 4, .* got 8 x 10"):
        config.encode(params, jnp.zeros((1, 8, 10, 3)))
    with pytest.raises(ValueError, match=r"latents: expected \[B, P, Q, 4\], got \[1, 2, 2, 3\]"):
        config.pixels(params, jnp.zeros((1, 2, 2, 3)))


def test_it_computes_in_the_dtype_of_its_parameters():
    config = AUTOENCODERS.read({"_class_name": "AutoencoderKL", **CASES["shifted"]})
    params = abstract_params(config.spec(), jnp.bfloat16)
    assert jax.eval_shape(config.latents, params, jnp.zeros((2, 8, 8, 3))).dtype == jnp.bfloat16
    assert jax.eval_shape(config.pixels, params, jnp.zeros((2, 2, 2, 16))).dtype == jnp.bfloat16
