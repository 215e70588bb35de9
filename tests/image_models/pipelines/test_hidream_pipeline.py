"""HiDream as a whole: images of prompts against `diffusers`, and files both ways."""

import numpy as np
import pytest
from diffusion_pipelines import assert_written_alike, channels_first, noise
from text_pipelines import PROMPTS, drawn, hidream

import jaxmodels as jm
from jaxmodels.decoding.diffusion.noise import Injected


@pytest.mark.sweep
def test_images_and_files_are_those_of_diffusers(tmp_path):
    theirs = hidream()
    theirs.save_pretrained(tmp_path / "hidream")
    # It scales what is asked for to as many pixels as these canvases have.
    theirs.default_sample_size = 8
    start = noise(2, 8, 8, 4)
    wanted = drawn(theirs, channels_first(start), size=(16, 16), guidance_scale=3.0)
    model = jm.load(tmp_path / "hidream")
    found = model.generate(PROMPTS, 4, guidance=3.0, size=16, noise=Injected(start))
    np.testing.assert_allclose(found.pixels, wanted, atol=1e-3)
    jm.save(model, tmp_path / "again")
    assert_written_alike(tmp_path / "hidream", tmp_path / "again")
