"""Stable Diffusion 3 as a whole: images of prompts against `diffusers`, and files both ways."""

import numpy as np
import pytest
from diffusion_pipelines import assert_written_alike, channels_first, noise
from text_pipelines import PROMPTS, drawn, sd3

import jaxmodels as jm
from jaxmodels.decoding.diffusion.noise import Injected

START = noise(2, 8, 12, 4)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(True, id="with-t5"),
        pytest.param(False, id="without-t5", marks=pytest.mark.sweep),
    ],
)
def saved(request, tmp_path_factory):
    theirs, directory = sd3(with_t5=request.param), tmp_path_factory.mktemp("sd3")
    theirs.save_pretrained(directory)
    return theirs, directory


def test_images_are_those_of_diffusers(saved):
    """Of canvases that are no squares, with guidance away from another prompt."""
    theirs, directory = saved
    wanted = drawn(theirs, channels_first(START), guidance_scale=4.0, negative_prompt="a boat")
    options = {"guidance": 4.0, "negative": "a boat", "size": (16, 24), "noise": Injected(START)}
    model = jm.load(directory)
    assert model.size == 16
    np.testing.assert_allclose(model.generate(PROMPTS, 4, **options).pixels, wanted, atol=1e-3)


@pytest.mark.sweep
def test_images_without_guidance_are_those_of_diffusers(saved):
    theirs, directory = saved
    wanted = drawn(theirs, channels_first(START), steps=3, guidance_scale=1.0)
    found = jm.load(directory).generate(PROMPTS, 3, guidance=1, size=(16, 24), noise=Injected(START))
    np.testing.assert_allclose(found.pixels, wanted, atol=1e-3)


def test_files_are_written_as_they_were_read(saved, tmp_path):
    theirs, directory = saved
    jm.save(jm.load(directory), tmp_path / "again")
    assert_written_alike(directory, tmp_path / "again")
    # What an index leaves out, diffusers wants to be told again.
    left_out = {name: None for name in ("text_encoder_3", "tokenizer_3") if getattr(theirs, name) is None}
    again = type(theirs).from_pretrained(tmp_path / "again", **left_out)
    start = channels_first(START)
    np.testing.assert_array_equal(drawn(again, start, steps=1), drawn(theirs, start, steps=1))
