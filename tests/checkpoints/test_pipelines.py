"""Pipelines: components that are missing, left out or unknown; several files for the parameters of one."""

import json

import diffusers
import jax
import numpy as np
import pytest
from masked_image_models import image_model
from text_pipelines import sd3

import jaxmodels as jm
from jaxmodels import memory
from jaxmodels.checkpoints.hub import resolve


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    path = tmp_path_factory.mktemp("pipelines") / "model"
    jm.save(image_model(), path)
    return path


@pytest.fixture
def copy(saved, tmp_path):
    """A copy of a pipeline, which is loaded with changes to its index."""
    jm.save(jm.load(saved), tmp_path)
    file = tmp_path / "model_index.json"

    def load(**changes):
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
        return jm.load(tmp_path, verify=False)

    load.directory = tmp_path
    return load


def test_other_pipelines_are_refused_with_those_that_are_known(copy):
    for name, told in (("AmusedPipeline", "'AmusedPipeline'"), (None, "None"), ([1], "[1]")):
        with pytest.raises(jm.CheckpointError) as error:
            copy(_class_name=name)
        assert f"key '_class_name' is {told}; the pipelines are: " in str(error.value)
        assert "MaskGITPipeline" in str(error.value)


def test_components_are_checked_against_the_pipeline(copy):
    for changes, told in (
        ({"vqvae": [None, None]}, "key 'vqvae' is [None, None]; a MaskGITPipeline needs the library and the"),
        ({"vqvae": "VQModel"}, "key 'vqvae' is 'VQModel'; a MaskGITPipeline needs"),
        (
            {"vqvae": ["diffusers", "VQModel"], "unet": ["diffusers", "UNet2DModel"]},
            "key 'unet' names a component, ['diffusers', 'UNet2DModel'], that a MaskGITPipeline does "
            "not have; it has: transformer, vqvae",
        ),
    ):
        with pytest.raises(jm.CheckpointError) as error:
            copy(**changes)
        assert told in str(error.value)


@pytest.mark.parametrize("name", ["tiny-ddt", "tiny-meanflow", "tiny-dit"])
def test_classes_are_named_with_the_library_that_has_them(name, tmp_path):
    model = jm.load(name)
    jm.save(model, tmp_path)
    written, bundled = (
        json.loads((directory / "model_index.json").read_text()) for directory in (tmp_path, resolve(name))
    )
    assert written == bundled
    library, denoiser = written["transformer"]
    assert library == ("diffusers" if denoiser in dir(diffusers) else "jaxmodels")
    written["transformer"][0] = "diffusers"  # as earlier files have it
    (tmp_path / "model_index.json").write_text(json.dumps(written))
    assert jm.load(tmp_path, verify=False).denoiser == model.denoiser


def test_a_folder_that_the_index_names_must_be_there(copy):
    (copy.directory / "vqvae").rename(copy.directory / "vae")
    with pytest.raises(jm.CheckpointError, match="the folder 'vqvae' is missing, which model_index"):
        copy()


def test_other_keys_of_the_index_are_accepted(copy):
    assert copy(_diffusers_version="0.42.0", feature_extractor=[None, None]).num_classes == 10


def test_parameters_may_be_in_several_files(saved, tmp_path):
    model = jm.load(saved)
    seen = []
    jm.save(model, tmp_path, max_shard_bytes=2000, progress=lambda name, size: seen.append(size))
    assert len(list((tmp_path / "vqvae").glob("diffusion_pytorch_model-0000*"))) > 1
    again = jm.load(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, again.autoencoder_params, model.autoencoder_params)
    jax.tree.map(np.testing.assert_array_equal, again.model.params, model.model.params)
    leaves = jax.tree.leaves([model.autoencoder_params, model.model.params])
    assert sum(seen) == sum(leaf.nbytes for leaf in leaves)


def test_a_changed_file_of_a_component_is_noticed(copy):
    file = copy.directory / "vqvae" / "config.json"
    file.write_text(file.read_text() + " ")
    with pytest.raises(jm.CheckpointError, match=r"vqvae/config\.json is not the file that was saved"):
        jm.load(copy.directory)


def test_a_save_replaces_components_and_keeps_the_users_files(copy, tmp_path):
    (tmp_path / "README.md").write_text("mine")
    (tmp_path / "vqvae" / "diffusion_pytorch_model-00001-of-00002.safetensors").write_text("old")
    jm.save(image_model(seed=1), tmp_path)
    assert (tmp_path / "README.md").read_text() == "mine"
    assert {file.name for file in (tmp_path / "vqvae").iterdir()} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }


def test_an_unused_component_is_left_out_of_what_is_saved(tmp_path):
    sd3(with_t5=False).save_pretrained(tmp_path / "theirs")
    file = tmp_path / "theirs" / "model_index.json"
    named = {"image_encoder": ["transformers", "SiglipVisionModel"]}
    file.write_text(json.dumps({**json.loads(file.read_text()), **named}))
    jm.save(jm.load(tmp_path / "theirs"), tmp_path / "again")
    left_out = {"text_encoder_3": None, "tokenizer_3": None}
    again = diffusers.StableDiffusion3Pipeline.from_pretrained(tmp_path / "again", **left_out)
    assert again.image_encoder is None and again.text_encoder is not None


def test_a_pipeline_that_does_not_fit_into_memory_is_refused_unread(saved, monkeypatch):
    def read(*arguments, **options):
        raise AssertionError("parameters were read")

    monkeypatch.setattr(memory, "free_bytes", lambda: 20_000)
    monkeypatch.setattr("jaxmodels.checkpoints.registered.read_params", read)
    with pytest.raises(jm.CheckpointError, match=r"of a MaskGITPipeline .* needs .* 20,000 bytes"):
        jm.load(saved)
