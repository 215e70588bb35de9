"""Sana against `diffusers`: non-square canvases, padded texts, guidance that it is told; files both ways."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from denoiser_models import assert_flops, text_shapes
from diffusers import SanaTransformer2DModel
from diffusers_modules import assert_close, assert_saved_alike, draw, saved_module
from model_helpers import quick_jit

from jaxmodels.checkpoints.diffusers import load_denoiser, save_denoiser
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.models.denoisers.text import Text
from jaxmodels.models.hf_config import ConfigError

BASE = {
    "in_channels": 4,
    "out_channels": 4,
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "num_layers": 2,
    "num_cross_attention_heads": 2,
    "cross_attention_head_dim": 12,
    "cross_attention_dim": 24,
    "caption_channels": 10,
    "sample_size": 8,
}
CASES = {
    "1.0": {},
    "Sprint: told guidance, normed queries": {
        "guidance_embeds": True,
        "guidance_embeds_scale": 0.3,
        "qk_norm": "rms_norm_across_heads",
        "timestep_scale": 500.0,
        "attention_bias": True,
    },
    "positions, larger patches, norm weights": {
        "interpolation_scale": 2,
        "patch_size": 2,
        "norm_elementwise_affine": True,
        "mlp_ratio": 1.5,
        "out_channels": None,
    },
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    return saved_module(SanaTransformer2DModel(**BASE | CASES[request.param]), tmp_path_factory)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_predictions_are_those_of_diffusers(saved, height, width):
    theirs, directory = saved
    config, params = load_denoiser(directory)
    (x, tx), (tokens, ttokens) = draw(2, height, width, 4), draw(2, 7, 10, seed=1)
    t, seen, told = np.array([0.3, 0.9], np.float32), np.arange(7) < np.array([[7], [4]]), config.conditioner
    strength = np.array([4.5, 2.0], np.float32)
    with torch.no_grad():
        wanted = theirs(
            tx.movedim(-1, 1),
            ttokens,
            torch.tensor(t * told.time_scale),
            guidance=torch.tensor(strength * told.guidance_scale) if told.guided else None,
            encoder_attention_mask=torch.tensor(seen, dtype=torch.float32),
        ).sample
    text = Text(
        tokens=tokens, seen=jnp.asarray(seen), guidance=jnp.asarray(strength) if told.guided else None
    )
    ours = quick_jit(config.denoise)(params, x, jnp.asarray(t), text)
    assert_close(ours.prediction, wanted.movedim(1, -1))


def test_a_save_is_the_file_that_diffusers_wrote(saved, tmp_path):
    assert_saved_alike(load_denoiser, save_denoiser, saved[1], tmp_path / "again")


def test_flops_of_a_step_are_those_of_its_products():
    sizes = {"num_attention_heads": 12, "attention_head_dim": 32, "num_cross_attention_heads": 6}
    sizes |= {"cross_attention_head_dim": 64, "cross_attention_dim": 384, "caption_channels": 512}
    config = denoiser_from_config({"_class_name": "SanaTransformer2DModel", **BASE, **sizes})
    assert_flops(config, (1, 24, 32, 4), text_shapes(tokens=(1, 60, 512)), config.flops(24, 32, 60))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qk_norm": "rms_norm"}, "'qk_norm' has the value 'rms_norm', which is not supported"),
        ({"cross_attention_dim": 20}, "'cross_attention_dim' must equal .* = 24 or be absent, got 20"),
    ],
)
def test_configurations_that_are_not_read(changes, message):
    with pytest.raises(ConfigError, match=message):
        denoiser_from_config({"_class_name": "SanaTransformer2DModel", **BASE, **changes})


def test_a_strength_of_guidance_must_be_given_to_a_model_that_is_told_it():
    config = denoiser_from_config({"_class_name": "SanaTransformer2DModel", **BASE, "guidance_embeds": True})
    text = Text(tokens=jnp.zeros((1, 7, 10)))
    with pytest.raises(ValueError, match=r"condition.guidance is missing; the model reads \[1\]"):
        config.denoise(abstract_params(config.spec()), jnp.zeros((1, 8, 8, 4)), jnp.zeros(1), text)
