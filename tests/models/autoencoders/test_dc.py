"""The deep compression autoencoder against `diffusers`: both directions, files both ways, bad sizes."""

import jax
import jax.numpy as jnp
import pytest
import torch
from diffusers import AutoencoderDC as TheirAutoencoderDC
from diffusers_modules import assert_close, assert_saved_alike, draw, randomised
from model_helpers import quick_jit

from jaxmodels.checkpoints.diffusers import load_autoencoder, save_autoencoder
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.autoencoders.autoencoder import Autoencoder
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.hf_config import ConfigError


def halves(**values):
    """Keys that encoder and decoder have alike."""
    return {f"{half}_{key}": value for key, value in values.items() for half in ("encoder", "decoder")}


# As Sana's, sizes changed by strides and by repetition; with pixels as channels; and as the first published
# ones, whose outermost stage is empty and whose decoder has norms of fixed statistics.
CASES = {
    "sana": {
        **halves(
            block_out_channels=[8, 16, 16],
            block_types=["ResBlock", "EfficientViTBlock", "EfficientViTBlock"],
            qkv_multiscales=[[], [5], [3, 5]],
        ),
        "encoder_layers_per_block": [1, 1, 2],
        "decoder_layers_per_block": [2, 1, 1],
        "latent_channels": 4,
        "attention_head_dim": 5,
        "downsample_block_type": "conv",
        "upsample_block_type": "interpolate",
        "scaling_factor": 0.41407,
    },
    "shuffled": {
        **halves(
            block_out_channels=[8, 8],
            layers_per_block=[1, 1],
            block_types=["ResBlock", "EfficientViTBlock"],
            qkv_multiscales=[[], []],
        ),
        "in_channels": 1,
        "latent_channels": 8,
        "attention_head_dim": 4,
        "encoder_out_shortcut": False,
        "decoder_in_shortcut": False,
        "decoder_norm_types": ["batch_norm", "rms_norm"],
    },
    "empty": {
        **halves(block_out_channels=[4, 8, 16], layers_per_block=[0, 1, 1], qkv_multiscales=[[], [], []]),
        "latent_channels": 4,
        "decoder_norm_types": ["batch_norm", "batch_norm", "rms_norm"],
        "decoder_act_fns": ["relu", "relu", "silu"],
        "decoder_conv_act_fn": "silu",
    },
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    theirs = randomised(TheirAutoencoderDC(**CASES[request.param]))
    for name, buffer in theirs.named_buffers():
        if "running" in name:
            buffer.copy_(torch.rand(buffer.shape) + 0.5)
    directory = tmp_path_factory.mktemp("dc")
    theirs.save_pretrained(directory)
    return theirs, directory


def test_latents_and_pixels_are_those_of_diffusers(saved):
    theirs, directory = saved
    config, params = load_autoencoder(directory)
    assert isinstance(config, Autoencoder)
    images, their_images = draw(2, 12, 20, config.image_channels)
    latents, their_latents = draw(2, 3, 5, config.latent_channels, seed=1)
    with torch.no_grad():
        encoded = theirs.encode(their_images.movedim(-1, 1)).latent
        decoded = theirs.decode(their_latents.movedim(-1, 1) / theirs.config.scaling_factor).sample
    assert_close(quick_jit(config.encode)(params, images), encoded.movedim(1, -1), 1e-4)
    assert_close(
        quick_jit(config.latents)(params, images), encoded.movedim(1, -1) * theirs.config.scaling_factor, 1e-4
    )
    assert_close(quick_jit(config.pixels)(params, latents), decoded.movedim(1, -1), 1e-4)


def test_files_are_written_as_they_were_read(saved, tmp_path):
    theirs, directory = saved
    config, params = load_autoencoder(directory)
    if any("num_batches_tracked" in name for name, _ in theirs.named_buffers()):
        # How many batches were seen in training is not kept: `diffusers` reads the rest as it was.
        save_autoencoder(config, params, tmp_path / "again")
    else:
        assert_saved_alike(load_autoencoder, save_autoencoder, directory, tmp_path / "again")
    again = TheirAutoencoderDC.from_pretrained(tmp_path / "again").state_dict()
    for name, tensor in theirs.state_dict().items():
        assert name.endswith("num_batches_tracked") or torch.equal(again[name], tensor)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"encoder_block_types": ["ResBlock", "ViT", "ResBlock"]}, "'encoder_block_types' must hold some of"),
        ({"decoder_norm_types": "group_norm"}, "'decoder_norm_types' must hold some of .* got 'group_norm'"),
        ({"encoder_layers_per_block": [1, 0, 2]}, r"every stage but the first .* got depths of \[1, 0, 2\]"),
        ({"encoder_layers_per_block": [1, 1]}, "must hold 3 entries"),
        ({"encoder_qkv_multiscales": [[], [4], [5]]}, r"kernels must be odd, got \(4,\)"),
        ({"upsample_block_type": "bilinear"}, "'upsample_block_type' has the value 'bilinear'"),
        ({"latent_channels": 3}, "16 channels cannot be shared out among 3"),
        (
            {"decoder_block_out_channels": [8, 16], "decoder_layers_per_block": [1, 1],
             "decoder_block_types": "ResBlock", "decoder_qkv_multiscales": [[], []]},
            r"have \[3, 2\] stages",
        ),
    ],
)  # fmt: skip
def test_configurations_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        AUTOENCODERS.read({"_class_name": "AutoencoderDC", **CASES["sana"], **changes})


def test_sizes_that_do_not_fit_are_refused():
    config = AUTOENCODERS.read({"_class_name": "AutoencoderDC", **CASES["sana"]})
    with pytest.raises(ValueError, match=r"multiples of 4, .* got 8 x 10"):
        config.encode(abstract_params(config.spec()), jnp.zeros((1, 8, 10, 3)))


def test_it_computes_in_the_dtype_of_its_parameters():
    config = AUTOENCODERS.read({"_class_name": "AutoencoderDC", **CASES["empty"]})
    params = abstract_params(config.spec(), jnp.bfloat16)
    assert jax.eval_shape(config.latents, params, jnp.zeros((2, 8, 8, 3))).dtype == jnp.bfloat16
    assert jax.eval_shape(config.pixels, params, jnp.zeros((2, 2, 2, 4))).dtype == jnp.bfloat16
