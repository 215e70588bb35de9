"""DiT as a whole: images of classes against `diffusers`, files both ways, and other pipelines' files."""

import dataclasses
import json
from unittest import mock

import diffusers
import numpy as np
import pytest
from diffusers.pipelines.dit import pipeline_dit
from diffusion_models import denoiser_of, dit_model
from diffusion_pipelines import assert_written_alike, channels_first, dit, noise

import jaxmodels as jm
from jaxmodels.checkpoints.schedulers import read_scheduler
from jaxmodels.decoding.diffusion.guidance import CFG, TimeInterval
from jaxmodels.decoding.diffusion.noise import Injected
from jaxmodels.image_models.pipelines.dit import ddt_habits, habits

CLASSES = [3, 999]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    theirs, directory = dit(), tmp_path_factory.mktemp("dit")
    theirs.save_pretrained(directory)
    index = directory / "model_index.json"  # published ones name the classes
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": {"3": "a three"}}))
    return theirs, directory


def drawn(theirs, start, steps, scale):
    """What the pipeline draws from this noise."""
    with mock.patch.object(pipeline_dit, "randn_tensor", return_value=channels_first(start)):
        return theirs(CLASSES, num_inference_steps=steps, guidance_scale=scale, output_type="np").images


@pytest.mark.parametrize("scale", [4.0, 1.0])
def test_images_of_classes_are_those_of_diffusers(saved, scale):
    theirs, directory = saved
    model, start = jm.load(directory), noise(2, 8, 8, 4)
    made = model.generate(CLASSES, 5, guidance=scale, noise=Injected(start))
    np.testing.assert_allclose(made.pixels, drawn(theirs, start, 5, scale), atol=1e-3)


def test_its_scheduler_may_be_another(saved, tmp_path):
    theirs, _ = saved
    other = diffusers.DPMSolverMultistepScheduler.from_config(theirs.scheduler.config, solver_order=3)
    diffusers.DiTPipeline(theirs.transformer, theirs.vae, other).save_pretrained(tmp_path)
    start = noise(2, 8, 8, 4, seed=1)
    made = jm.load(tmp_path).generate(CLASSES, 6, noise=Injected(start))
    theirs = diffusers.DiTPipeline(theirs.transformer, theirs.vae, other)
    np.testing.assert_allclose(made.pixels, drawn(theirs, start, 6, 4.0), atol=1e-3)


def test_a_sampler_of_a_name_is_the_scheduler_that_diffusers_makes_of_the_other(saved):
    theirs, directory = saved
    model, start = jm.load(directory), noise(2, 8, 8, 4, seed=2)
    for name, kind in (
        ("dpm++", diffusers.DPMSolverMultistepScheduler),
        ("unipc", diffusers.UniPCMultistepScheduler),
    ):
        other = diffusers.DiTPipeline(
            theirs.transformer, theirs.vae, kind.from_config(theirs.scheduler.config)
        )
        made = model.generate(CLASSES, 6, sampler=name, noise=Injected(start))
        np.testing.assert_allclose(made.pixels, drawn(other, start, 6, 4.0), atol=1e-3)


def test_files_are_written_as_they_were(saved, tmp_path):
    _, directory = saved
    jm.save(jm.load(directory), tmp_path)
    assert_written_alike(directory, tmp_path)
    assert json.loads((tmp_path / "model_index.json").read_text())["id2label"] == {"3": "a three"}
    again = diffusers.DiTPipeline.from_pretrained(tmp_path)
    assert type(again.scheduler) is diffusers.DDIMScheduler


def test_models_without_autoencoder_are_read_again_with_what_their_caches_go_by(tmp_path):
    ratios = np.array([1.0, 0.99, 1.01, 1.0], np.float32)
    model = dit_model(autoencoder=None, canvas=4, calibrations={"magcache": ratios})
    jm.save(model, tmp_path)
    again = jm.load(tmp_path)
    assert again.autoencoder is None and again.canvas == 4 and again.sampler == model.sampler
    np.testing.assert_array_equal(again.calibrations["magcache"], ratios)
    assert again.habits.guidance == model.habits.guidance == 3.0  # a pipeline of its class has 4
    np.testing.assert_array_equal(again.generate(3, 4).latents, model.generate(3, 4).latents)


TO_DATA = read_scheduler({"_class_name": "FlowToDataEulerScheduler"})
OF_CLASSES = {"sample_size": 8, "out_channels": 8, "num_embeds_ada_norm": 10}


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize(
    ("family", "config", "usual", "options", "rule"),
    [
        ("DiTTransformer2DModel", OF_CLASSES, habits, {}, CFG(3.0)),
        ("DiT", {}, habits, {}, CFG(3.0, channels=3)),
        ("SiT", {}, habits, {"sampler": TO_DATA}, CFG(3.0, channels=3)),
        (
            "DDT",
            {},
            ddt_habits,
            {"sampler": TO_DATA, "pipeline": "DDTPipeline"},
            TimeInterval(CFG(3.0), 0.3, 1.0),
        ),
    ],
)
def test_a_scale_guides_what_the_code_of_its_family_does(tmp_path, family, config, usual, options, rule):
    denoiser, params = denoiser_of(family, **config)
    told = dataclasses.replace(usual(denoiser), steps=4)
    parts = {"denoiser": denoiser, "params": params, "habits": told, "autoencoder": None}
    model = dit_model(**parts, **options)
    made = model.generate(3, guidance=3.0).latents
    np.testing.assert_allclose(made, model.generate(3, guidance=rule).latents, atol=1e-5)
    if rule != CFG(3.0):
        assert np.abs(made - model.generate(3, guidance=CFG(3.0)).latents).max() > 1e-3
    jm.save(model, tmp_path / "usual")
    index = json.loads((tmp_path / "usual" / "model_index.json").read_text())
    assert not {"guided_channels", "guided_times", "guidance_scale"} & set(index)
    assert jm.load(tmp_path / "usual").prepared(3, guidance=3.0)[0].guidance == rule
    everywhere = dataclasses.replace(told, guided_channels=None, guided_times=None)
    jm.save(dataclasses.replace(model, habits=everywhere), tmp_path / "everywhere")
    again = jm.load(tmp_path / "everywhere")
    assert again.prepared(3, guidance=3.0)[0].guidance == CFG(3.0)
    jm.save(dataclasses.replace(again, habits=told), tmp_path / "back")
    assert jm.load(tmp_path / "back").prepared(3, guidance=3.0)[0].guidance == rule


def test_the_bundled_ddt_is_guided_at_all_times():
    assert jm.load("tiny-ddt").prepared(3)[0].guidance == CFG(2.0)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"scheduler": None}, "key 'scheduler' is None; a DiTPipeline needs the library"),
        ("model_index.json", {"vae_2": ["diffusers", "AutoencoderKL"]}, "key 'vae_2' names a component"),
        ("model_index.json", {"sample_size": 0}, "key 'sample_size' must be a whole number >= 1 .* got 0"),
        ("model_index.json", {"guided_channels": 5}, "key 'guided_channels' must be a whole .* <= 4, got 5"),
        ("model_index.json", {"guided_times": [0.5]}, r"key 'guided_times' must be null or two .* \[0.5\]"),
        ("model_index.json", {"guided_times": [0.5, 0.1]}, "key 'guided_times' must be .*>= 0.5, got 0.1"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "KarrasVeScheduler"},
            "'KarrasVeScheduler'.*DDIM",
        ),
        ("transformer/config.json", {"_class_name": "UNet2DModel"}, "the denoisers are: .*DiTTransformer2D"),
        ("vae/config.json", {"latent_channels": 5}, "latents have 5 channels, and the denoiser works on 4"),
        ("vae/config.json", {"layers_per_block": 2}, "tensor"),
    ],
)
def test_what_is_wrong_with_the_files_is_told(saved, tmp_path, file, changes, message):
    _, directory = saved
    jm.save(jm.load(directory), tmp_path)
    values = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(values | changes))
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load(tmp_path, verify=False)
