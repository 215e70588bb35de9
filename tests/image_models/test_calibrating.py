"""Calibrated models draw with caches by name, and keep their calibrations when they are saved."""

import numpy as np
import pytest
from denoiser_models import CONFIGS, condition_of
from diffusion_models import denoiser_of, dit_model
from model_helpers import random_params

import jaxmodels
from jaxmodels.decoding.diffusion.caches.depth_table import DepthTable
from jaxmodels.decoding.diffusion.caches.exit_training import ExitTraining
from jaxmodels.decoding.diffusion.caches.harmonica_training import RouterTraining
from jaxmodels.decoding.diffusion.caches.uncertainty_exit import UncertaintyExit
from jaxmodels.image_models.calibrating import (
    Drawing,
    with_exits,
    with_ratios,
    with_router,
    with_shared_encoder,
)
from jaxmodels.image_models.conditions import GivenTexts
from jaxmodels.image_models.diffusion import Habits
from jaxmodels.models.denoisers.families import DENOISERS


@pytest.mark.sweep
def test_a_calibrated_model_draws_by_name_and_is_saved_with_it(tmp_path):
    model = with_ratios(dit_model(autoencoder=None), [1, 2], 4)
    model = with_router(model, [1, 2], 4, RouterTraining(runs=2, refresh=2))
    ratios, router = model.calibrations["magcache"], model.calibrations["harmonica"]
    assert ratios.shape == (4,) and ratios[0] == 1 and np.ptp(ratios) > 0
    assert router.shape == (4, len(model.denoiser.module_names()))
    jaxmodels.save(model, tmp_path / "saved")
    again = jaxmodels.load(tmp_path / "saved")
    for cache in ("magcache", "harmonica"):
        images = [each.generate([3], 4, guidance=3.0, cache=cache).latents for each in (model, again)]
        np.testing.assert_array_equal(*images)
    with pytest.raises(ValueError, match="router: it is made for 4 steps, but the run has 5 calls"):
        again.generate([3], 5, cache="harmonica")


def test_the_mask_of_a_shared_encoder():
    denoiser = DENOISERS.read({**CONFIGS["DDT"], "_class_name": "DDT", "num_classes": 10})
    params = random_params(denoiser.spec())
    ddt = dit_model(autoencoder=None, pipeline="DDTPipeline", denoiser=denoiser, params=params)
    model = with_shared_encoder(ddt, [1, 2], 4, computed=2)
    assert model.calibrations["encoder-sharing"].sum() == 2
    blocks = model.generate([3], 4, cache="encoder-sharing").blocks
    np.testing.assert_array_equal(blocks == denoiser.num_blocks, model.calibrations["encoder-sharing"])


@pytest.mark.sweep
def test_a_model_is_measured_as_it_is_to_draw():
    """Another sampler, guidance and size; a text of several rows is as many images."""
    model = dit_model(autoencoder=None)
    drawings = (Drawing(), Drawing(sampler="euler"), Drawing(guidance=1.0), Drawing(negative=4))
    ratios = [with_ratios(model, [1, 2], 4, drawing=drawing).calibrations["magcache"] for drawing in drawings]
    assert all(np.abs(other - ratios[0]).max() > 1e-6 for other in ratios[1:])
    denoiser, params = denoiser_of("PixArtTransformer2DModel")
    parts = {"denoiser": denoiser, "params": params, "conditions": GivenTexts(), "habits": Habits()}
    of_texts = dit_model(autoencoder=None, **parts)
    text = condition_of("PixArtTransformer2DModel")
    assert len(text.tokens) > 1
    measured = with_ratios(of_texts, text, 3, drawing=Drawing(size=(8, 16)))
    assert measured.calibrations["magcache"].shape == (3,)


@pytest.mark.sweep
def test_a_model_with_heads_is_left_early_and_saved_with_them(tmp_path):
    model, latents = dit_model(autoencoder=None), np.zeros((2, 8, 8, 4), np.float32)
    training = ExitTraining(steps=3, learning_rate=0.01)
    trained = with_exits(model, latents, [1, 2], 4, training, batch=3)
    with pytest.raises(ValueError, match="a model of 2 blocks needs 1 heads to exit by, got 0"):
        model.generate([3], 4, cache=DepthTable([1, 2, 2, 1]))
    jaxmodels.save(trained, tmp_path)
    again = jaxmodels.load(tmp_path)
    for cache in (DepthTable([1, 2, 2, 1]), UncertaintyExit(1.0)):
        images = [each.generate([3], 4, cache=cache) for each in (trained, again)]
        assert images[0].blocks.sum() < 8
        np.testing.assert_array_equal(images[0].latents, images[1].latents)
    np.testing.assert_array_equal(trained.generate([3], 4).latents, model.generate([3], 4).latents)
    with pytest.raises(ValueError, match=r"latents must be \[2, 8, 8, 4\] .* got \[1, 8, 8, 4\]"):
        with_exits(model, latents[:1], [1, 2], 4, training)
    jaxmodels.save(model, tmp_path)
    assert not jaxmodels.load(tmp_path).exits
