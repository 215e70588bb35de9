"""aMUSEd's U-ViT against `diffusers`: logits, files both ways; prompts and grids that do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from diffusers import UVit2DModel
from diffusers_modules import assert_close, assert_saved_alike, draw, randomised
from model_helpers import quick_jit
from token_image_models import AMUSED

from jaxmodels.checkpoints.diffusers import load_token_image_model, save_token_image_model
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.hf_config import ConfigError
from jaxmodels.models.token_images.condition import Prompt
from jaxmodels.models.token_images.families import TOKEN_IMAGE_MODELS

# As the model for 256 pixels; as that for 512, which halves its grid; without a mapping of the text.
CASES = {
    "256": {},
    "512, biases": {"downsample": True, "upsample": True, "use_bias": True},
    "equal widths": {"block_out_channels": 24, "ln_elementwise_affine": False, "layer_norm_eps": 1e-3},
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    theirs = randomised(UVit2DModel(**AMUSED | CASES[request.param]))
    directory = tmp_path_factory.mktemp("amused")
    theirs.save_pretrained(directory)
    return theirs, directory


def test_logits_are_those_of_diffusers(saved):
    theirs, directory = saved
    config, params = load_token_image_model(directory)
    codes = np.random.default_rng(0).integers(40, size=(2, 6, 4))
    (tokens, their_tokens), (pooled, their_pooled) = draw(2, 5, 14, seed=1), draw(2, 10, seed=2)
    described = np.array([[512, 512, 0, 0, 6], [768.5, 300, 12, 0, 5.25]], np.float32)
    with torch.no_grad():
        wanted = theirs(torch.tensor(codes), their_tokens, their_pooled, torch.tensor(described))
    prompt = Prompt(tokens=tokens, pooled=pooled, described=jnp.asarray(described))
    ours = quick_jit(config.logits)(params, jnp.asarray(codes), prompt)
    assert_close(ours, wanted.movedim(1, -1), 1e-4)


def test_files_are_written_as_they_were_read(saved, tmp_path):
    _, directory = saved
    assert_saved_alike(load_token_image_model, save_token_image_model, directory, tmp_path / "again")
    assert UVit2DModel.from_pretrained(tmp_path / "again").config.hidden_size == 24


PROMPT = Prompt(tokens=jnp.zeros((2, 5, 14)), pooled=jnp.zeros((2, 10)), described=jnp.zeros((2, 5)))


@pytest.mark.parametrize(
    ("codes", "prompt", "message"),
    [
        (jnp.zeros((2, 16), int), PROMPT, r"codes: expected \[B, H, W\], got \[2, 16\]"),
        (jnp.zeros((2, 4, 3), int), PROMPT, "height and width must be even, got 4 x 3"),
        (jnp.zeros((2, 4, 4), int), None, "condition must be a Prompt, got NoneType"),
        (jnp.zeros((3, 4, 4), int), PROMPT, r"condition.tokens: expected \[3, T, 14\], got \[2, 5, 14\]"),
        (
            jnp.zeros((2, 4, 4), int),
            dataclasses.replace(PROMPT, described=jnp.zeros((2, 4))),
            r"condition.described: expected \[2, 5\], got \[2, 4\]",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_compilation(codes, prompt, message):
    config = TOKEN_IMAGE_MODELS.read({"_class_name": "UVit2DModel", **AMUSED | CASES["512, biases"]})
    with pytest.raises(ValueError, match=message):
        config.logits(abstract_params(config.spec()), codes, prompt)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"upsample": True}, "'upsample' must be that of 'downsample', False"),
        ({"block_num_heads": 3}, "'block_num_heads' must divide"),
        ({"codebook_size": 40}, "vocab_size=40 must exceed num_codes=40"),
        ({"micro_cond_encode_dim": 7}, "'micro_cond_encode_dim' must divide 'micro_cond_embed_dim' = 30"),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        TOKEN_IMAGE_MODELS.read({"_class_name": "UVit2DModel", **AMUSED, **changes})


def test_it_computes_in_the_dtype_of_its_parameters():
    config = TOKEN_IMAGE_MODELS.read({"_class_name": "UVit2DModel", **AMUSED})
    params = abstract_params(config.spec(), jnp.bfloat16)
    assert jax.eval_shape(config.logits, params, jnp.zeros((2, 4, 4), int), PROMPT).dtype == jnp.bfloat16
