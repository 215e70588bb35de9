"""Sana as a whole: images of prompts against `diffusers`, and files both ways."""

import numpy as np
from diffusion_pipelines import assert_written_alike, channels_first, noise
from text_pipelines import PROMPTS, drawn, sana

import jaxmodels as jm
from jaxmodels.decoding.diffusion.noise import Injected


def test_images_and_files_are_those_of_diffusers(tmp_path):
    """Of canvases that are no squares, without the instruction that is part of no file."""
    theirs = sana()
    theirs.save_pretrained(tmp_path / "sana")
    start = noise(2, 8, 16, 4)
    plain = {"use_resolution_binning": False, "complex_human_instruction": None}
    wanted = drawn(theirs, channels_first(start), size=(32, 64), guidance_scale=3.0, **plain)
    model = jm.load(tmp_path / "sana")
    found = model.generate(PROMPTS, 4, guidance=3.0, size=(32, 64), noise=Injected(start))
    np.testing.assert_allclose(found.pixels, wanted, atol=1e-3)
    jm.save(model, tmp_path / "again")
    # Gemma is written with the names of a language model, which transformers reads for its class as well.
    encoder, again = (tmp_path / name / "text_encoder" for name in ("sana", "again"))
    before, after = (type(theirs.text_encoder).from_pretrained(one).state_dict() for one in (encoder, again))
    assert all((before[name] == after[name]).all() for name in before)
    (encoder / "model.safetensors").unlink()
    assert_written_alike(tmp_path / "sana", tmp_path / "again")
