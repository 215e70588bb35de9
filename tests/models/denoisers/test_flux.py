"""Flux against `diffusers`: with and without guidance, on awkward canvases; files both ways."""

import functools

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from denoiser_models import assert_flops, text_shapes
from diffusers import FluxTransformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline
from diffusers_modules import assert_close, assert_saved_alike, draw, saved_module
from model_helpers import quick_jit

from jaxmodels.checkpoints.diffusers import load_denoiser, save_denoiser
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.models.denoisers.text import Text
from jaxmodels.models.hf_config import ConfigError

BASE = {
    "in_channels": 16,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "joint_attention_dim": 10,
    "pooled_projection_dim": 14,
    "axes_dims_rope": (2, 2, 4),
}


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "guided"])
def saved(request, tmp_path_factory):
    return saved_module(FluxTransformer2DModel(**BASE, guidance_embeds=request.param), tmp_path_factory)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_predictions_are_those_of_diffusers(saved, height, width):
    theirs, directory = saved
    config, params = load_denoiser(directory)
    (x, tx), (tokens, ttokens) = draw(2, height, width, 4), draw(2, 7, 10, seed=1)
    (pooled, tpooled), sigmas = draw(2, 14, seed=2), np.array([0.07, 0.96], np.float32)
    strengths = np.array([3.5, 1.0], np.float32) if config.conditioner.guided else None
    packed = FluxPipeline._pack_latents(tx.movedim(-1, 1), 2, 4, height, width)
    ids = FluxPipeline._prepare_latent_image_ids(2, height // 2, width // 2, "cpu", torch.float32)
    with torch.no_grad():
        wanted = theirs(
            packed,
            ttokens,
            tpooled,
            torch.tensor(sigmas),
            img_ids=ids,
            txt_ids=torch.zeros(7, 3),
            guidance=None if strengths is None else torch.tensor(strengths),
        ).sample
    wanted = FluxPipeline._unpack_latents(wanted, height * 8, width * 8, 8).movedim(1, -1)
    text = Text(tokens=tokens, pooled=pooled, guidance=None if strengths is None else jnp.asarray(strengths))
    ours = quick_jit(config.denoise)(params, x, jnp.asarray(sigmas), text)
    assert_close(ours.prediction, wanted)


def test_a_save_is_the_file_that_diffusers_wrote(saved, tmp_path):
    assert_saved_alike(load_denoiser, save_denoiser, saved[1], tmp_path / "again")


def test_streams_of_both_kinds_of_block(saved):
    config, params = load_denoiser(saved[1])
    text = Text(tokens=draw(1, 7, 10)[0], pooled=draw(1, 14)[0])
    if config.conditioner.guided:
        text = text.replace(guidance=jnp.ones(1))
    denoise = quick_jit(functools.partial(config.denoise, taps=config.taps))
    seen = denoise(params, draw(1, 8, 6, 4)[0], jnp.ones(1), text).taps
    shapes = {name: stream.shape for name, stream in seen.items()}
    assert shapes["blocks/1"] == (1, 12, 24) and shapes["blocks/1/context"] == (1, 7, 24)
    assert shapes["single_blocks/1"] == (1, 12, 24) and shapes["single_blocks/1/context"] == (1, 7, 24)


def test_flops_of_a_step_are_those_of_its_products():
    sizes = {"attention_head_dim": 64, "num_attention_heads": 6, "axes_dims_rope": [8, 28, 28]}
    values = {"_class_name": "FluxTransformer2DModel", **BASE, **sizes, "joint_attention_dim": 512}
    config = denoiser_from_config(values)
    text = text_shapes(tokens=(1, 50, 512), pooled=(1, 14))
    assert_flops(config, (1, 24, 32, 4), text, config.flops(24, 32, 50))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"axes_dims_rope": [2, 2, 2]},
            r"'axes_dims_rope' must add up to 'attention_head_dim' = 8, got \(2, 2, 2\)",
        ),
        ({"in_channels": 6}, "'in_channels' must be a multiple of 4.*got 6"),
        ({"patch_size": 2}, "'patch_size' has the value 2, which is not supported"),
    ],
)
def test_configurations_that_are_not_read(changes, message):
    values = {"_class_name": "FluxTransformer2DModel", **BASE, "axes_dims_rope": [2, 2, 4]} | changes
    with pytest.raises(ConfigError, match=message):
        denoiser_from_config(values)


def test_a_strength_of_guidance_belongs_to_models_that_are_told_it():
    config = denoiser_from_config(
        {"_class_name": "FluxTransformer2DModel", **BASE, "axes_dims_rope": [2, 2, 4]}
    )
    text = Text(tokens=jnp.zeros((1, 7, 10)), pooled=jnp.zeros((1, 14)), guidance=jnp.ones(1))
    with pytest.raises(ValueError, match=r"condition.guidance: the model reads none, got \[1\]"):
        config.denoise(abstract_params(config.spec()), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), text)
