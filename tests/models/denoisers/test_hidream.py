"""HiDream against `diffusers`: filled canvases, mixtures or none; files both ways; what does not fit."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from denoiser_models import assert_flops, text_shapes
from diffusers import HiDreamImageTransformer2DModel
from diffusers_modules import assert_close, assert_saved_alike, draw, saved_module
from model_helpers import quick_jit

from jaxmodels.checkpoints.diffusers import load_denoiser, save_denoiser
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.denoisers.families import denoiser_from_config
from jaxmodels.models.denoisers.text import Text
from jaxmodels.models.hf_config import ConfigError

BASE = {
    "patch_size": 2,
    "in_channels": 4,
    "num_layers": 2,
    "num_single_layers": 2,
    "attention_head_dim": 8,
    "num_attention_heads": 3,
    "caption_channels": [10, 6],
    "text_emb_dim": 14,
    "axes_dims_rope": [4, 2, 2],
    "max_resolution": [8, 16],
    "llama_layers": [0, 1, 2, 1],
    "force_inference_output": True,
}
CASES = {
    "mixtures": {},
    "plain, half of each head turned": {
        "num_routed_experts": 0,
        "attention_head_dim": 16,
        "num_layers": 1,
        "num_single_layers": 1,
        "llama_layers": [1, 0],
    },
}


@pytest.fixture(scope="module", params=CASES)
def saved(request, tmp_path_factory):
    return saved_module(HiDreamImageTransformer2DModel(**BASE | CASES[request.param]), tmp_path_factory)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(("height", "width"), [(8, 8), (6, 10), (8, 16)])
def test_predictions_are_those_of_diffusers(saved, height, width):
    theirs, directory = saved
    config, params = load_denoiser(directory)
    (x, tx), (tokens, ttokens) = draw(2, height, width, 4), draw(2, 7, 10, seed=1)
    (pooled, tpooled), (states, tstates) = draw(2, 14, seed=2), draw(2, 3, 5, 6, seed=3)
    t = np.array([3.5, 960.0], np.float32)
    with torch.no_grad():
        wanted = theirs(
            tx.movedim(-1, 1),
            timesteps=torch.tensor(t),
            encoder_hidden_states_t5=ttokens,
            encoder_hidden_states_llama3=tstates.movedim(1, 0),
            pooled_embeds=tpooled,
        ).sample
    text = Text(tokens=tokens, pooled=pooled, states=states)
    ours = quick_jit(config.denoise)(params, x, jnp.asarray(t), text)
    assert_close(ours.prediction, wanted.movedim(1, -1))


def test_a_save_is_the_file_that_diffusers_wrote(saved, tmp_path):
    theirs, directory = saved
    values = json.loads((directory / "config.json").read_text())
    height, width = values["max_resolution"]
    # Only the product of the two counts.
    (directory / "config.json").write_text(json.dumps(values | {"max_resolution": [height * width // 2, 2]}))
    assert_saved_alike(load_denoiser, save_denoiser, directory, tmp_path / "again")
    assert HiDreamImageTransformer2DModel.from_pretrained(tmp_path / "again").max_seq == theirs.max_seq


def test_flops_of_a_step_are_those_of_its_products():
    sizes = {"attention_head_dim": 64, "num_attention_heads": 6, "axes_dims_rope": [32, 16, 16]}
    # The products of experts are in loops, whose passes are not counted.
    sizes |= {"caption_channels": [512, 256], "max_resolution": [32, 32], "num_routed_experts": 0}
    config = denoiser_from_config({"_class_name": "HiDreamImageTransformer2DModel", **BASE, **sizes})
    text = text_shapes(tokens=(1, 20, 512), pooled=(1, 14), states=(1, 3, 20, 256))
    assert_flops(config, (1, 24, 32, 4), text, config.flops(24, 32, 20))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"llama_layers": [0, 1]},
            r"'llama_layers' must name one layer .* for each of 4 blocks.*got 2: \[0, 1\]",
        ),
        (
            {"axes_dims_rope": [2, 2, 2]},
            r"'axes_dims_rope' must add up to .* = 8 or half of it, got \(2, 2, 2\)",
        ),
        ({"num_activated_experts": 5}, "top_k must be between 1 and num_experts=4, got 5"),
        ({"patch_size": None}, "'patch_size' is missing"),
    ],
)
def test_configurations_that_are_not_read(changes, message):
    with pytest.raises(ConfigError, match=message):
        denoiser_from_config({"_class_name": "HiDreamImageTransformer2DModel", **BASE, **changes})


TEXT = Text(tokens=jnp.zeros((2, 7, 10)), pooled=jnp.zeros((2, 14)), states=jnp.zeros((2, 3, 5, 6)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x": jnp.zeros((2, 10, 14, 4))}, "5 x 7 patches, but a canvas that is not square has at most 32"),
        ({"condition": TEXT.replace(states=None)}, "condition.states is missing"),
        (
            {"condition": TEXT.replace(states=jnp.zeros((2, 2, 5, 6)))},
            r"condition.states: expected \[2, 3, 5, 6\], got \[2, 2, 5, 6\]",
        ),
        ({"condition": TEXT.replace(states=jnp.zeros((2, 5, 6)))}, r"\[2, L, S, 6\], got \[2, 5, 6\]"),
    ],
)
def test_what_does_not_fit_is_refused_before_compilation(changes, message):
    config = denoiser_from_config({"_class_name": "HiDreamImageTransformer2DModel", **BASE})
    given = {"x": jnp.zeros((2, 8, 8, 4)), "t": jnp.zeros(2), "condition": TEXT} | changes
    with pytest.raises(ValueError, match=message):
        config.denoise(abstract_params(config.spec()), **given)
