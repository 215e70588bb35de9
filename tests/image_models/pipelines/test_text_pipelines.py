"""Whole pipelines from prompts to pixels: the images of diffusers from the same noise, and files both ways."""

import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from text_pipelines import channels_first, flux, noise, sd3

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.decoding.diffusion.noise import Injected

PROMPTS = ["A cat on the mat", "Zürich, in the style of a naïve painter"]
CANVAS = noise(2, 8, 12)
SIZE = (16, 24)


def drawn_by(pipeline, canvas, **options):
    """f32[B, H, W, 3], of a pipeline of diffusers."""
    with torch.no_grad():
        height, width = SIZE
        return pipeline(
            PROMPTS, latents=canvas, height=height, width=width, output_type="np",
            num_inference_steps=4, **options,
        ).images  # fmt: skip


def assert_saved_alike(before, after):
    """The same tensors, tokenizers and index."""
    for file in before.rglob("*.safetensors"):
        ours = load_file(after / file.relative_to(before))
        theirs = load_file(file)
        assert theirs.keys() == ours.keys()
        for name, tensor in theirs.items():
            np.testing.assert_array_equal(ours[name], tensor)
    for file in before.rglob("tokenizer.json"):
        assert (after / file.relative_to(before)).read_bytes() == file.read_bytes()
    for name in ("model_index.json", "scheduler/scheduler_config.json"):
        given, written = (json.loads((directory / name).read_text()) for directory in (before, after))
        assert {key: given[key] for key in written if key in given} == {
            key: value for key, value in written.items() if key in given
        }


@pytest.fixture(scope="module", params=[True, False], ids=["t5", "without-t5"])
def of_sd3(request, tmp_path_factory):
    theirs, directory = sd3(request.param), tmp_path_factory.mktemp("sd3")
    theirs.save_pretrained(directory)
    return theirs, jm.load(directory), directory


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_sd3_draws_what_diffusers_draws(of_sd3, guidance):
    theirs, ours, _ = of_sd3
    wanted = drawn_by(theirs, channels_first(CANVAS), guidance_scale=guidance, negative_prompt="a boat")
    options = {} if guidance == 1.0 else {"negative": "a boat"}
    found = ours.generate(PROMPTS, 4, guidance=guidance, size=SIZE, noise=Injected(CANVAS), **options)
    np.testing.assert_allclose(found.pixels, wanted, atol=1e-3)
    assert ours.size == 16


def test_sd3_is_written_as_it_was_read(of_sd3, tmp_path):
    theirs, ours, directory = of_sd3
    jm.save(ours, tmp_path / "again")
    assert_saved_alike(directory, tmp_path / "again")
    again = type(theirs).from_pretrained(tmp_path / "again")
    wanted, found = (drawn_by(one, channels_first(CANVAS), guidance_scale=4.0) for one in (theirs, again))
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("guided", [True, False])
def test_flux_draws_what_diffusers_draws(guided, tmp_path):
    theirs = flux(guided)
    theirs.save_pretrained(tmp_path / "flux")
    ours = jm.load(tmp_path / "flux")
    packed = theirs._pack_latents(channels_first(CANVAS), 2, 4, 8, 12)
    wanted = drawn_by(theirs, packed, guidance_scale=5.0)
    options = {"guidance": 5.0} if guided else {}
    found = ours.generate(PROMPTS, 4, size=SIZE, noise=Injected(CANVAS), **options)
    np.testing.assert_allclose(found.pixels, wanted, atol=1e-3)
    assert ours.size == 256
    jm.save(ours, tmp_path / "again")
    assert_saved_alike(tmp_path / "flux", tmp_path / "again")


def test_a_scheduler_of_another_kind_is_refused(tmp_path):
    theirs = flux()
    theirs.save_pretrained(tmp_path)
    index = json.loads((tmp_path / "model_index.json").read_text())
    index["scheduler"] = ["diffusers", "DDIMScheduler"]
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    (tmp_path / "scheduler" / "scheduler_config.json").write_text('{"_class_name": "DDIMScheduler"}')
    with pytest.raises((CheckpointError, ValueError), match="takes a FlowMatchEulerDiscreteScheduler"):
        jm.load(tmp_path)
