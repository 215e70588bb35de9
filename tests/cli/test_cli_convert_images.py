"""`jaxmodels convert` of pipelines: to another dtype, and back to files of the same bytes; several files."""

import jax
import numpy as np
import pytest
import torch
from diffusion_models import dit_model
from masked_image_models import image_model
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch_file
from text_pipelines import sd3

import jaxmodels as jm

WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipelines") / "model"
    jm.save(dit_model(), path)
    return path


def test_a_pipeline_is_written_again(run, directory, tmp_path):
    result = run("convert", directory, tmp_path / "again", "--to", "hf")
    assert "DiTPipeline, float32" in result.stderr
    for file in (f"transformer/{WEIGHTS}", f"vae/{WEIGHTS}", "scheduler/scheduler_config.json"):
        assert (tmp_path / "again" / file).read_bytes() == (directory / file).read_bytes()
    told = run("convert", directory, tmp_path / "again", "--to", "hf", code=2).stderr
    assert "holds a checkpoint already; give --overwrite" in told


@pytest.mark.sweep
def test_a_pipeline_keeps_the_dtype_that_it_is_stored_in(run, directory, tmp_path):
    run("convert", directory, tmp_path / "half", "--to", "hf", "--dtype", "float16")
    run("convert", tmp_path / "half", tmp_path / "again", "--to", "hf", "--max-shard-gb", "0.00002")
    assert len(list((tmp_path / "again" / "transformer").glob("*.safetensors"))) > 1
    halves = load_file(tmp_path / "half" / "vae" / WEIGHTS)
    assert {tensor.dtype for tensor in halves.values()} == {np.dtype(np.float16)}
    jax.tree.map(
        np.testing.assert_array_equal,
        jm.load(tmp_path / "again", "float16").params,
        jm.load(tmp_path / "half", "float16").params,
    )
    (tmp_path / "half" / "vae" / WEIGHTS).write_bytes((directory / "vae" / WEIGHTS).read_bytes())
    told = run("convert", tmp_path / "half", tmp_path / "mixed", "--to", "hf", "--no-verify", code=2).stderr
    assert "give --dtype, since components are not stored in one: " in told and "vae in float32" in told


def test_other_image_models_are_converted_too_and_have_one_form(run, tmp_path):
    jm.save(image_model(), tmp_path / "masked")
    assert "MaskGITPipeline" in run("convert", tmp_path / "masked", tmp_path / "a", "--to", "hf").stderr
    told = run("convert", tmp_path / "masked", tmp_path / "b", "--to", "orbax", code=2).stderr
    assert "is an image model, which has one form: --to hf without --family" in told


def test_options_of_language_models_are_refused(run, directory, tmp_path):
    for option in (("--adapter", "some"), ("--text-only",)):
        told = run("convert", directory, tmp_path / "a", "--to", "hf", *option, code=2).stderr
        assert f"{option[0]} is of language models, and" in told
    assert not (tmp_path / "a").exists()


def test_text_encoders_are_read_from_pickles_if_that_is_allowed(run, tmp_path):
    sd3(with_t5=False).save_pretrained(tmp_path / "theirs")
    encoder = tmp_path / "theirs" / "text_encoder"
    torch.save(load_torch_file(encoder / "model.safetensors"), encoder / "pytorch_model.bin")
    (encoder / "model.safetensors").unlink()
    asked = ("convert", tmp_path / "theirs", tmp_path / "again", "--to", "hf")
    told = run(*asked, code=2).stderr
    assert "pytorch_model.bin is a pickle" in told
    run(*asked, "--allow-pickle")
    run(*asked, "--allow-pickle", "--dtype", "float32", "--overwrite")
    assert (tmp_path / "again" / "text_encoder" / "model.safetensors").is_file()
