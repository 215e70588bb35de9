"""SD3 against `diffusers`: with and without query norms and second attentions, on awkward canvases."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from denoiser_models import assert_flops, text_shapes
from diffusers import SD3Transformer2DModel
from diffusers_modules import assert_close, assert_saved_alike, draw, saved_module
from model_helpers import quick_jit

from jaxmodels.checkpoints.diffusers import load_denoiser, save_denoiser
from jaxmodels.layers.spec import init_params
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.models.denoisers.text import Text

BASE = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "num_layers": 3,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "joint_attention_dim": 10,
    "caption_projection_dim": 24,
    "pooled_projection_dim": 14,
    "pos_embed_max_size": 6,
}
CASES = {
    "3": {},
    "3.5, dual attention": {"qk_norm": "rms_norm", "dual_attention_layers": (0, 2), "out_channels": None},
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    return saved_module(SD3Transformer2DModel(**BASE | CASES[request.param]), tmp_path_factory)


@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10)])
def test_predictions_are_those_of_diffusers(saved, height, width):
    theirs, directory = saved
    config, params = load_denoiser(directory)
    (x, tx), (tokens, ttokens) = draw(2, height, width, 4), draw(2, 7, 10, seed=1)
    (pooled, tpooled), t = draw(2, 14, seed=2), np.array([3.5, 960.0], np.float32)
    with torch.no_grad():
        wanted = theirs(tx.movedim(-1, 1), ttokens, tpooled, torch.tensor(t)).sample.movedim(1, -1)
    ours = quick_jit(config.denoise)(params, x, jnp.asarray(t), Text(tokens=tokens, pooled=pooled))
    assert_close(ours.prediction, wanted)


def test_a_save_is_the_file_that_diffusers_wrote(saved, tmp_path):
    assert_saved_alike(load_denoiser, save_denoiser, saved[1], tmp_path / "again")


def test_a_new_model_has_the_positions_of_diffusers():
    config = denoiser_from_config({"_class_name": "SD3Transformer2DModel", **BASE})
    positions = init_params(config.spec(), jax.random.key(0))["positions"]["weight"]
    theirs = SD3Transformer2DModel(**BASE).pos_embed.pos_embed
    np.testing.assert_allclose(positions.reshape(1, 36, 24), theirs, atol=1e-6)


def test_flops_of_a_step_are_those_of_its_products():
    sizes = {"attention_head_dim": 64, "num_attention_heads": 6, "caption_projection_dim": 384}
    values = {"_class_name": "SD3Transformer2DModel", **BASE, **sizes, "pos_embed_max_size": 32}
    config = denoiser_from_config({**values, "joint_attention_dim": 512, "pooled_projection_dim": 256})
    text = text_shapes(tokens=(1, 50, 512), pooled=(1, 256))
    assert_flops(config, (1, 24, 32, 4), text, config.flops(24, 32, 50))


TEXT = Text(tokens=jnp.zeros((2, 7, 10)), pooled=jnp.zeros((2, 14)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": jnp.zeros((2, 8, 14, 4))}, "4 x 7 patches, but the model has positions for 6 x 6"),
        ({"condition": Text(tokens=TEXT.tokens)}, r"condition.pooled is missing; the model reads \[2, 14\]"),
        (
            {"condition": Text(tokens=TEXT.tokens, pooled=jnp.zeros((2, 13)))},
            r"condition.pooled: expected \[2, 14\], got \[2, 13\]",
        ),
        ({"taps": ("blocks/2/context",)}, "has no 'blocks/2/context'"),
    ],
)
def test_what_does_not_fit_is_refused_before_compilation(changes, message):
    config = denoiser_from_config({"_class_name": "SD3Transformer2DModel", **BASE})
    given = {"x": jnp.zeros((2, 8, 8, 4)), "t": jnp.zeros(2), "condition": TEXT} | changes
    params = init_params(config.spec(), jax.random.key(0))
    with pytest.raises(ValueError, match=message):
        config.denoise(params, **given)
