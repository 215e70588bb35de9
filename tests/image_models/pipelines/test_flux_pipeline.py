"""Flux as a whole: images of prompts against `diffusers`, files both ways, a scheduler of another kind."""

import json

import numpy as np
import pytest
from diffusion_pipelines import assert_written_alike, channels_first, noise
from text_pipelines import PROMPTS, drawn, flux

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.decoding.diffusion.noise import Injected

START = noise(2, 8, 12, 4)


@pytest.fixture(scope="module", params=[True, pytest.param(False, marks=pytest.mark.sweep)])
def saved(request, tmp_path_factory):
    theirs, directory = flux(guided=request.param), tmp_path_factory.mktemp("flux")
    theirs.save_pretrained(directory)
    return theirs, directory


def test_images_are_those_of_diffusers(saved):
    """Of canvases that are no squares."""
    theirs, directory = saved
    packed = theirs._pack_latents(channels_first(START), 2, 4, 8, 12)
    wanted = drawn(theirs, packed, guidance_scale=5.0)
    model = jm.load(directory)
    options = {"guidance": 5.0} if theirs.transformer.config.guidance_embeds else {}
    found = model.generate(PROMPTS, 4, size=(16, 24), noise=Injected(START), **options)
    np.testing.assert_allclose(found.pixels, wanted, atol=1e-3)
    assert model.size == 256


def test_files_are_written_as_they_were_read(saved, tmp_path):
    _, directory = saved
    jm.save(jm.load(directory), tmp_path / "again")
    assert_written_alike(directory, tmp_path / "again")


def test_a_text_encoder_that_is_missing_beside_another_is_named(saved, tmp_path):
    _, directory = saved
    jm.save(jm.load(directory), tmp_path / "again")
    file = tmp_path / "again" / "model_index.json"
    index = json.loads(file.read_text())
    file.write_text(json.dumps(index | {"text_encoder_2": [None, None]}))
    with pytest.raises((CheckpointError, ValueError), match=r"'text_encoder_2' is left out, .* beside 't"):
        jm.load(tmp_path / "again", verify=False)


def test_a_scheduler_of_another_kind_is_refused(saved, tmp_path):
    _, directory = saved
    jm.save(jm.load(directory), tmp_path / "again")
    file = tmp_path / "again" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps({"_class_name": "DDIMScheduler"}))
    with pytest.raises((CheckpointError, ValueError), match=r"takes a FlowMatchEulerDiscrete.* DDIM"):
        jm.load(tmp_path / "again", verify=False)
