"""Z-Image against `diffusers`: texts of several lengths, canvases that are filled up; files both ways."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from denoiser_models import assert_flops, text_shapes
from diffusers import ZImageTransformer2DModel
from diffusers_modules import assert_close, assert_saved_alike, draw, saved_module
from model_helpers import quick_jit

from jaxmodels.checkpoints.diffusers import load_denoiser, save_denoiser
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.models.denoisers.text import Text
from jaxmodels.models.hf_config import ConfigError

BASE = {
    "in_channels": 4,
    "dim": 48,
    "n_layers": 2,
    "n_refiner_layers": 1,
    "n_heads": 3,
    "n_kv_heads": 3,
    "cap_feat_dim": 10,
    "axes_dims": [4, 6, 6],
    "axes_lens": [128, 16, 16],
}


@pytest.fixture(scope="module", params=[True, False], ids=["normed queries", "plain queries"])
def saved(request, tmp_path_factory):
    return saved_module(ZImageTransformer2DModel(**BASE, qk_norm=request.param), tmp_path_factory)


@pytest.mark.parametrize(("height", "width", "lengths"), [(8, 16, [32, 32]), (6, 10, [37, 9])])
def test_predictions_are_those_of_diffusers(saved, height, width, lengths):
    theirs, directory = saved
    config, params = load_denoiser(directory)
    (x, tx), (tokens, ttokens) = draw(2, height, width, 4), draw(2, max(lengths), 10, seed=1)
    t = np.array([0.07, 0.96], np.float32)
    with torch.no_grad():
        wanted = theirs(
            [canvas[:, None] for canvas in tx.movedim(-1, 1)],
            torch.tensor(t),
            [row[:length] for row, length in zip(ttokens, lengths, strict=True)],
        ).sample
    seen = np.arange(max(lengths)) < np.array(lengths)[:, None]
    ours = quick_jit(config.denoise)(params, x, jnp.asarray(t), Text(tokens=tokens, seen=jnp.asarray(seen)))
    assert_close(ours.prediction, torch.stack(wanted)[:, :, 0].movedim(1, -1))


def test_a_save_is_the_file_that_diffusers_wrote(saved, tmp_path):
    assert_saved_alike(load_denoiser, save_denoiser, saved[1], tmp_path / "again")


def test_flops_of_a_step_are_those_of_its_products():
    sizes = {"dim": 384, "n_heads": 6, "axes_dims": [16, 24, 24], "cap_feat_dim": 512}
    config = denoiser_from_config({"_class_name": "ZImageTransformer2DModel", **BASE, **sizes})
    assert_flops(config, (1, 24, 32, 4), text_shapes(tokens=(1, 60, 512)), config.flops(24, 32, 60))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"axes_dims": [2, 2, 4]}, r"'axes_dims' must add up to dim / n_heads = 16, got \(2, 2, 4\)"),
        ({"all_patch_size": [2, 4]}, "'all_patch_size' must hold 1 numbers"),
        ({"siglip_feat_dim": 8}, "'siglip_feat_dim' has the value 8, which is not supported"),
    ],
)
def test_configurations_that_are_not_read(changes, message):
    with pytest.raises(ConfigError, match=message):
        denoiser_from_config({"_class_name": "ZImageTransformer2DModel", **BASE, **changes})


@pytest.mark.parametrize(
    ("shape", "tokens"), [((1, 8, 34, 4), 7), ((1, 8, 8, 4), 100)], ids=["canvas", "text"]
)
def test_what_has_no_positions_is_refused(shape, tokens):
    config = denoiser_from_config({"_class_name": "ZImageTransformer2DModel", **BASE})
    text = Text(tokens=jnp.zeros((1, tokens, 10)))
    with pytest.raises(ValueError, match="but the model has positions for 16 x 16 behind 126"):
        config.denoise(abstract_params(config.spec()), jnp.zeros(shape), jnp.zeros(1), text)
