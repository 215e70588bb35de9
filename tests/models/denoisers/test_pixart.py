"""PixArt against `diffusers`: non-square canvases, padded texts, told sizes; files both ways; bad texts."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from denoiser_models import assert_flops, text_shapes
from diffusers import PixArtTransformer2DModel
from diffusers_modules import assert_close, assert_saved_alike, draw, saved_module
from model_helpers import quick_jit

from jaxmodels.checkpoints.diffusers import load_denoiser, save_denoiser
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.models.denoisers.text import Text

BASE = {
    "num_attention_heads": 3,
    "attention_head_dim": 8,
    "cross_attention_dim": 24,
    "caption_channels": 10,
    "num_layers": 2,
    "sample_size": 8,
}
CASES = {
    "plain": {},
    "told sizes, odd heads": {
        "num_attention_heads": 5,
        "attention_head_dim": 12,
        "cross_attention_dim": 60,
        "use_additional_conditions": True,
        "interpolation_scale": 2,
        "out_channels": None,
    },
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    return saved_module(PixArtTransformer2DModel(**BASE | CASES[request.param]), tmp_path_factory)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_predictions_are_those_of_diffusers(saved, height, width):
    theirs, directory = saved
    config, params = load_denoiser(directory)
    x, tx = draw(2, height, width, 4)
    tokens, ttokens = draw(2, 7, 10, seed=1)
    t, seen = np.array([3.5, 960.0], np.float32), np.arange(7) < np.array([[7], [4]])
    told = {"resolution": [[512.0, 640.0], [1024.0, 256.0]], "aspect_ratio": [[0.8], [4.0]]}
    given = {key: torch.tensor(value) for key, value in told.items()} if config.conditioner.sizes else {}
    with torch.no_grad():
        wanted = theirs(
            tx.movedim(-1, 1),
            encoder_hidden_states=ttokens,
            timestep=torch.tensor(t),
            encoder_attention_mask=torch.tensor(seen, dtype=torch.float32),
            added_cond_kwargs=given or {"resolution": None, "aspect_ratio": None},
        ).sample
    sizes = (
        {key: jnp.asarray(value).reshape((2, -1)) for key, value in told.items()}
        if config.conditioner.sizes
        else {}
    )
    if sizes:
        sizes["aspect_ratio"] = sizes["aspect_ratio"][:, 0]
    text = Text(tokens=tokens, seen=jnp.asarray(seen), **sizes)
    ours = quick_jit(config.denoise)(params, x, jnp.asarray(t), text)
    assert_close(ours.prediction, wanted.movedim(1, -1))


def test_a_save_is_the_file_that_diffusers_wrote(saved, tmp_path):
    theirs, directory = saved
    assert_saved_alike(load_denoiser, save_denoiser, directory, tmp_path / "again")
    again = PixArtTransformer2DModel.from_pretrained(tmp_path / "again")
    assert again.use_additional_conditions == theirs.use_additional_conditions


def test_flops_of_a_step_are_those_of_its_products():
    sizes = {"num_attention_heads": 6, "attention_head_dim": 64, "cross_attention_dim": 384, "num_layers": 2}
    values = {"_class_name": "PixArtTransformer2DModel", **sizes, "sample_size": 32, "caption_channels": 512}
    config = denoiser_from_config(values)
    assert_flops(config, (1, 24, 40, 4), text_shapes(tokens=(1, 60, 512)), config.flops(24, 40, 60))


TEXT = Text(tokens=jnp.zeros((2, 7, 10)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"condition": jnp.zeros(2, jnp.int32)}, "condition must be a Text, got ArrayImpl"),
        (
            {"condition": dataclasses.replace(TEXT, tokens=jnp.zeros((2, 7, 11)))},
            r"\[2, T, 10\], got \[2, 7, 11\]",
        ),
        ({"condition": dataclasses.replace(TEXT, seen=jnp.ones((2, 6), bool))}, r"seen: expected \[2, 7\]"),
        ({"condition": dataclasses.replace(TEXT, pooled=jnp.ones((2, 6)))}, r"pooled: the model reads none"),
        ({"t": jnp.zeros(3)}, r"t: expected \[2\], got \[3\]"),
        ({"x": jnp.zeros((2, 8, 9, 4))}, "2 x 2 do not divide an image of 8 x 9"),
    ],
)
def test_what_does_not_fit_is_refused_before_compilation(changes, message):
    config = denoiser_from_config({"_class_name": "PixArtTransformer2DModel", **BASE})
    given = {"x": jnp.zeros((2, 8, 8, 4)), "t": jnp.zeros(2), "condition": TEXT} | changes
    with pytest.raises(ValueError, match=message):
        config.denoise(abstract_params(config.spec()), **given)


def test_sizes_that_the_model_is_told_must_be_given():
    config = denoiser_from_config(
        {"_class_name": "PixArtTransformer2DModel", **BASE, "use_additional_conditions": True}
    )
    with pytest.raises(ValueError, match=r"condition.resolution is missing; the model reads \[2, 2\]"):
        config.denoise(abstract_params(config.spec()), jnp.zeros((2, 8, 8, 4)), jnp.zeros(2), TEXT)
