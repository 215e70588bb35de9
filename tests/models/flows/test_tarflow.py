"""TarFlow against a torch pass over the published tensors; files both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import published_flows as published
import pytest
import torch
from diffusers_modules import assert_saved_alike, draw
from flow_models import FLOW, HEADS, flow
from model_helpers import quick_jit
from safetensors.torch import load_file

from jaxmodels.checkpoints.diffusers import load_flow, save_flow
from jaxmodels.checkpoints.registered import STEM
from jaxmodels.models.flows.families import FLOWS
from jaxmodels.models.hf_config import ConfigError


@pytest.fixture(scope="module", params=[{}, {"num_classes": 0}], ids=["classes", "plain"])
def saved(request, tmp_path_factory):
    directory = tmp_path_factory.mktemp("flow")
    config, params = flow(**request.param)
    save_flow(config, params, directory)
    return config, params, load_file(directory / f"{STEM}.safetensors"), directory


def test_noise_and_likelihood_are_those_of_the_published_rule(saved):
    config, params, state, _ = saved
    images, _ = draw(3, 8, 8, 2)
    classes = [2, None, 0] if config.num_classes else None
    tokens = published.patches(torch.tensor(np.asarray(images)).permute(0, 3, 1, 2), 2)
    z, scaled = published.forward(state, tokens, classes, HEADS)
    given = jnp.array([2, -1, 0]) if config.num_classes else None
    found, log_scale = quick_jit(config.forward)(params, images, given)
    np.testing.assert_allclose(found, z, atol=2e-5 * float(z.abs().max()))
    np.testing.assert_allclose(log_scale, scaled, atol=1e-5)


@pytest.mark.sweep
def test_the_likelihood_is_that_of_the_change_of_variables():
    config, params = flow()
    images, classes = draw(1, 8, 8, 2)[0], jnp.array([1])

    def noise(flat):
        return config.forward(params, flat.reshape(images.shape), classes)[0].ravel()

    flat = images.ravel()
    z, jacobian = (np.asarray(of(flat), np.float64) for of in map(quick_jit, (noise, jax.jacobian(noise))))
    expected = 0.5 * np.square(z).mean() - np.linalg.slogdet(jacobian)[1] / z.size
    found = quick_jit(config.negative_log_likelihood)(params, images, classes)
    np.testing.assert_allclose(found[0], expected, rtol=1e-5)


def test_tokens_are_images_and_back():
    config, _ = flow()
    images, _ = draw(2, 8, 8, 2)
    np.testing.assert_array_equal(config.images(config.tokens(images)), images)
    with pytest.raises(ValueError, match=r"images: expected \['B', 8, 8, 2\], got \[2, 8, 8, 3\]"):
        config.tokens(jnp.zeros((2, 8, 8, 3)))


def test_the_noise_of_training_is_taken_away_by_tweedies_formula():
    # A flow that changes nothing has unit noise as images: before noise of 0.6 their mean was 0.64 of them.
    config, params = flow(noise_std=0.6)
    params = jax.tree.map(np.zeros_like, params)
    images, _ = draw(2, 8, 8, 2)
    np.testing.assert_allclose(quick_jit(config.denoised)(params, images), 0.64 * images, atol=1e-6)


def test_files_are_written_as_they_were_read(saved, tmp_path):
    *_, directory = saved
    assert_saved_alike(load_flow, save_flow, directory, tmp_path / "again")


def test_flows_that_only_shift_have_no_scales():
    config, params = flow(nvp=False)
    assert params["steps"]["0"]["out"]["w"].shape[0] == config.channels
    _, scaled = quick_jit(config.forward)(params, draw(1, 8, 8, 2)[0], jnp.array([0]))
    np.testing.assert_array_equal(scaled, [0.0])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"patch_size": 3}, "patch_size"),
        ({"head_dim": 7}, "head_dim"),
        ({"num_blocks": 0}, "'num_blocks'"),
        ({"img_size": None}, "'img_size' is missing"),
    ],
)
def test_configurations_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ConfigError, match=message):
        FLOWS.read(FLOW | changes)
