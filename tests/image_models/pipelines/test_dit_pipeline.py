"""DiT as a whole: images of classes against `diffusers`, files both ways, and other pipelines' files."""

import json
from unittest import mock

import diffusers
import numpy as np
import pytest
from diffusers.pipelines.dit import pipeline_dit
from diffusion_models import dit_model
from diffusion_pipelines import assert_written_alike, channels_first, dit, noise

import jaxmodels as jm
from jaxmodels.decoding.diffusion.noise import Injected

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


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"scheduler": None}, "key 'scheduler' is None; a DiTPipeline needs the library"),
        ("model_index.json", {"vae_2": ["diffusers", "AutoencoderKL"]}, "key 'vae_2' names a component"),
        ("model_index.json", {"sample_size": 0}, "key 'sample_size' must be a whole number >= 1 .* got 0"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "KarrasVeScheduler"},
            "'KarrasVeScheduler'.*DDIM",
        ),
        ("transformer/config.json", {"_class_name": "UNet2DModel"}, "the denoisers are: .*DiTTransformer2D"),
        ("vae/config.json", {"latent_channels": 5}, "tensor"),
    ],
)
def test_what_is_wrong_with_the_files_is_told(saved, tmp_path, file, changes, message):
    _, directory = saved
    jm.save(jm.load(directory), tmp_path)
    values = json.loads((tmp_path / file).read_text())
    (tmp_path / file).write_text(json.dumps(values | changes))
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load(tmp_path, verify=False)
