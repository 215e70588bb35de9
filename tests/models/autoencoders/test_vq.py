"""The VQ autoencoder against `diffusers`: codes, pixels, files both ways; sizes that do not fit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import VQModel as TheirVQModel
from diffusers_modules import assert_close, assert_saved_alike, draw, randomised
from model_helpers import quick_jit
from safetensors.numpy import load_file, save_file

from jaxmodels.checkpoints.diffusers import load_autoencoder, save_autoencoder
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.checkpoints.registered import STEM
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.autoencoders.vq import nearest_code
from jaxmodels.models.hf_config import ConfigError

# As aMUSEd's, whose middle has no attention; and with attention everywhere, other channels, odd sizes.
CASES = {
    "amused": {
        "block_out_channels": [8, 16, 16],
        "down_block_types": ["DownEncoderBlock2D"] * 3,
        "up_block_types": ["UpDecoderBlock2D"] * 3,
        "layers_per_block": 2,
        "latent_channels": 6,
        "num_vq_embeddings": 20,
        "vq_embed_dim": 6,
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
        "lookup_from_codebook": True,
        "force_upcast": True,
    },
    "attention": {
        "in_channels": 1,
        "out_channels": 1,
        "block_out_channels": [6, 12],
        "down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
        "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"],
        "latent_channels": 5,
        "num_vq_embeddings": 12,
        "vq_embed_dim": 3,
        "norm_num_groups": 3,
        "act_fn": "gelu",
    },
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    theirs = randomised(TheirVQModel(**CASES[request.param]))
    directory = tmp_path_factory.mktemp("vq")
    theirs.save_pretrained(directory)
    return theirs, directory


@pytest.mark.wide(every_run=1)
def test_codes_and_pixels_are_those_of_diffusers(saved):
    theirs, directory = saved
    config, params = load_autoencoder(directory)
    images, their_images = draw(2, 12, 20, config.image_channels)
    with torch.no_grad():
        latents = theirs.encode(their_images.movedim(-1, 1)).latents
        quantised, _, (_, _, codes) = theirs.quantize(latents)
        pixels = theirs.decode(latents).sample
    ours = quick_jit(config.encode)(params, images)
    assert_close(ours, latents.movedim(1, -1))
    found = quick_jit(config.codes)(params, images)
    assert found.shape == (2, 12 // config.shape.factor, 20 // config.shape.factor)
    np.testing.assert_array_equal(np.asarray(found).ravel(), codes.numpy())
    assert_close(quick_jit(config.pixels)(params, found), pixels.movedim(1, -1))
    np.testing.assert_allclose(
        params["codebook"]["weight"][found], quantised.movedim(1, -1).numpy(), atol=1e-5
    )


def test_files_are_written_as_they_were_read(saved, tmp_path):
    _, directory = saved
    assert_saved_alike(load_autoencoder, save_autoencoder, directory, tmp_path / "again")
    assert TheirVQModel.from_pretrained(tmp_path / "again").config.num_vq_embeddings in (20, 12)


def test_old_names_of_attention_are_read(saved, tmp_path):
    _, directory = saved
    file = directory / f"{STEM}.safetensors"
    renamed = {
        name.replace("to_q", "query").replace("to_out.0", "proj_attn"): tensor
        for name, tensor in load_file(file).items()
    }
    save_file(renamed, tmp_path / file.name)
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    (_, params), (_, again) = load_autoencoder(directory), load_autoencoder(tmp_path)
    np.testing.assert_array_equal(params["encoder"]["conv_out"]["w"], again["encoder"]["conv_out"]["w"])


def test_the_first_of_several_codes_as_near_is_taken():
    codebook = jnp.asarray([[3.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert nearest_code(jnp.asarray([[0.1, 1.2], [0.9, -0.1]]), codebook).tolist() == [1, 3]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_type": "spatial"}, "'norm_type' has the value 'spatial', which is not supported"),
        ({"down_block_types": ["DownBlock2D"] * 3}, "down_block_types.* must hold 3 of"),
        ({"out_channels": 4}, "'out_channels' must equal 'in_channels' = 3"),
        ({"norm_num_groups": 5}, "num_groups must divide channels=8, got 5"),
        ({"up_block_types": ["AttnUpDecoderBlock2D"] + ["UpDecoderBlock2D"] * 2}, "in reverse"),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(changes, message):
    values = {"_class_name": "VQModel", **CASES["amused"], **changes}
    with pytest.raises(ConfigError, match=message):
        AUTOENCODERS.read(values)


def test_images_of_other_channels_are_refused():
    config = AUTOENCODERS.read({"_class_name": "VQModel", **CASES["amused"]})
    with pytest.raises(ValueError, match=r"expected \[B, H, W, 3\], got \[1, 8, 8, 1\]"):
        config.encode(abstract_params(config.spec()), jnp.zeros((1, 8, 8, 1)))


def test_a_tensor_that_is_missing_is_named(saved, tmp_path):
    _, directory = saved
    tensors = load_file(directory / f"{STEM}.safetensors")
    del tensors["quantize.embedding.weight"]
    save_file(tensors, tmp_path / f"{STEM}.safetensors")
    (tmp_path / "config.json").write_bytes((directory / "config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"quantize\.embedding\.weight"):
        load_autoencoder(tmp_path)


def test_it_computes_in_the_dtype_of_its_parameters():
    config = AUTOENCODERS.read({"_class_name": "VQModel", **CASES["attention"]})
    params = abstract_params(config.spec(), jnp.bfloat16)
    assert jax.eval_shape(config.encode, params, jnp.zeros((2, 8, 8, 1))).dtype == jnp.bfloat16
    assert jax.eval_shape(config.pixels, params, jnp.zeros((2, 4, 4), int)).dtype == jnp.bfloat16


def test_that_of_tiny_maskgit_is_read_by_diffusers():
    directory = resolve("tiny-maskgit") / "vqvae"
    theirs, (config, params) = TheirVQModel.from_pretrained(directory).float(), load_autoencoder(directory)
    images, their_images = draw(2, 32, 32, 1)
    with torch.no_grad():
        latents = theirs.encode(their_images.movedim(-1, 1)).latents
        wanted = theirs.decode(latents).sample
    drawn = quick_jit(lambda params, images: config.pixels(params, config.codes(params, images)))
    assert_close(drawn(params, images), wanted.movedim(1, -1))
