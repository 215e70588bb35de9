"""`jaxmodels convert`: every direction gives the same parameters back."""

import dataclasses
import json
import shutil

import jax
import numpy as np
import pytest
from model_helpers import attention, decoder
from safetensors.numpy import load_file, save_file

import jaxmodels as jm
from jaxmodels.cli.convert import _in_family
from jaxmodels.layers.spec import walk
from jaxmodels.models.costs import weight_bytes


def same_params(a, b):
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)


def test_to_orbax_and_back_is_the_same_file(run, model_dir, tmp_path):
    run("convert", model_dir, tmp_path / "orbax", "--to", "orbax")
    assert (tmp_path / "orbax" / "params").is_dir()
    assert not (tmp_path / "orbax" / "model.safetensors").exists()
    same_params(jm.load(tmp_path / "orbax"), jm.load(model_dir))
    result = run("convert", tmp_path / "orbax", tmp_path / "hf", "--to", "hf")
    assert "mamba2, float32" in result.stderr and result.stdout == ""
    for file in model_dir.iterdir():
        assert (tmp_path / "hf" / file.name).read_bytes() == file.read_bytes(), file.name


def test_adapters_are_merged(run, model_dir, adapter_dir, tmp_path):
    run("convert", model_dir, tmp_path / "merged", "--to", "hf", "--adapter", adapter_dir)
    same_params(jm.load(tmp_path / "merged"), jm.load(model_dir, adapter=adapter_dir))


def test_between_the_layouts_of_mamba2(run, model_dir, tmp_path):
    run("convert", model_dir, tmp_path / "original", "--to", "hf", "--family", "mamba2-original")
    assert "ssm_cfg" in json.loads((tmp_path / "original" / "config.json").read_text())
    original = jm.load(tmp_path / "original")
    assert original.config.family == "mamba2-original"
    same_params(original, jm.load(model_dir))
    run("convert", tmp_path / "original", tmp_path / "again", "--to", "hf", "--family", "mamba2")
    assert (tmp_path / "again" / "model.safetensors").read_bytes() == (
        model_dir / "model.safetensors"
    ).read_bytes()


def test_dtype_and_shards(run, model_dir, tmp_path):
    run("convert", model_dir, tmp_path / "half", "--to", "hf", "--dtype", "bfloat16", "--max-shard-gb", 5e-6)
    assert len(list((tmp_path / "half").glob("model-*.safetensors"))) > 1
    converted = jm.load(tmp_path / "half", "bfloat16")
    assert converted.params["embed"]["weight"].dtype == "bfloat16"
    same_params(converted, jm.load(model_dir, "bfloat16"))
    # By default the dtype stays what is stored, whatever this machine computes in.
    run("convert", tmp_path / "half", tmp_path / "orbax", "--to", "orbax")
    assert json.loads((tmp_path / "orbax" / "config.json").read_text())["dtype"] == "bfloat16"
    run("convert", tmp_path / "orbax", tmp_path / "hf", "--to", "hf")
    assert json.loads((tmp_path / "hf" / "config.json").read_text())["dtype"] == "bfloat16"


def test_a_head_that_differs_from_the_tied_embedding_stays(run, model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "both", ignore=shutil.ignore_patterns("checksums.json"))
    file = tmp_path / "both" / "model.safetensors"
    tensors = load_file(file)
    tensors["lm_head.weight"] = tensors["backbone.embeddings.weight"] + 1
    save_file(tensors, file, {"format": "pt"})
    run("convert", tmp_path / "both", tmp_path / "converted", "--to", "hf")
    written = load_file(tmp_path / "converted" / "model.safetensors")
    np.testing.assert_array_equal(written["lm_head.weight"], tensors["lm_head.weight"])
    assert json.loads((tmp_path / "converted" / "config.json").read_text())["tie_word_embeddings"] is False


def test_the_language_model_of_one_that_sees(run, model_dir, tmp_path):
    shutil.copytree(model_dir, tmp_path / "sees", ignore=shutil.ignore_patterns("checksums.json"))
    file = tmp_path / "sees" / "model.safetensors"
    tensors = {f"language_model.{name}": tensor for name, tensor in load_file(file).items()}
    save_file({**tensors, "vision_tower.weight": np.ones(3, np.float32)}, file, {"format": "pt"})
    destination = tmp_path / "text"
    error = run("convert", tmp_path / "sees", destination, "--to", "hf", code=2).stderr
    assert "vision_tower.weight" in error and "--text-only" in error
    run("convert", tmp_path / "sees", destination, "--to", "hf", "--text-only")
    same_params(jm.load(destination), jm.load(model_dir))


def test_a_checkpoint_is_not_overwritten_unasked(run, model_dir, tmp_path):
    destination = tmp_path / "there"
    run("convert", model_dir, destination, "--to", "hf")
    error = run("convert", model_dir, destination, "--to", "orbax", code=2).stderr
    assert "give --overwrite" in error and (destination / "model.safetensors").exists()
    run("convert", model_dir, destination, "--to", "orbax", "--overwrite")
    assert not (destination / "model.safetensors").exists()
    same_params(jm.load(destination), jm.load(model_dir))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--to", "hf", "--family", "llama"), "--family llama: a mamba2 model has no such form"),
        (("--to", "hf", "--family", "gpt5"), "--family 'gpt5' is not known; the families are"),
        (("--to", "orbax", "--max-shard-gb", 1), "Orbax chooses its own files"),
        (("--to", "hf", "--max-shard-gb", 0), "--max-shard-gb must be above 0 and at most 1,000,000, got 0"),
        (("--to", "hf", "--max-shard-gb", "inf"), "--max-shard-gb must be above 0 and at most"),
        (("--to", "hf", "--max-shard-gb", "nan"), "--max-shard-gb must be above 0 and at most"),
        (("--to", "orbax", "--quantize", "int8"), "--quantize applies to --to hf alone"),
        (("--to", "hf", "--quantize", "int3"), "quantize must be one of ['int8', 'int4', "),
    ],
)
def test_bad_options_are_named_and_write_nothing(run, model_dir, tmp_path, arguments, message):
    assert message in run("convert", model_dir, tmp_path / "out", *arguments, code=2).stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("destination", "message"),
    [
        ("file", "is a file; a checkpoint is saved to a directory"),
        ("loop", "cannot be read: Too many levels of symbolic links"),
        ("x" * 300, "cannot be read: File name too long"),
    ],
)
def test_destinations_are_looked_at_before_the_weights(
    run, model_dir, tmp_path, monkeypatch, destination, message
):
    monkeypatch.setattr(jm, "load", None)
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    error = run("convert", model_dir, tmp_path / destination, "--to", "hf", code=2).stderr
    assert message in error and error.count("\n") == 1


def test_a_family_that_would_lose_something_is_refused():
    """Mistral's config.json has no key for biases, so a Llama with biases would come back without."""
    plain = dataclasses.replace(decoder(attention(), attention()), family="llama")
    assert _in_family(plain, "mistral").family == "mistral"
    with_bias = dataclasses.replace(
        decoder(attention(qkv_bias=True, out_bias=True)), family="llama", tie_embeddings=True
    )
    with pytest.raises(ValueError, match=r"a llama model has no such form.*'mistral' layout cannot express"):
        _in_family(with_bias, "mistral")


@pytest.mark.parametrize("form", ["hf", "orbax"])
def test_progress_counts_every_byte_once(model_dir, tmp_path, form):
    heard: dict[str, list[tuple[str, int]]] = {"load": [], "save": []}
    model = jm.load(model_dir)
    jm.save(model, tmp_path / form, form, progress=lambda *one: heard["save"].append(one))
    jm.load(tmp_path / form, progress=lambda *one: heard["load"].append(one))
    # Of a Hugging Face directory the tensors are counted, some of which hold several parameters.
    params = dict(walk(model.params))
    count = len(params if form == "orbax" else load_file(tmp_path / form / "model.safetensors"))
    for calls in heard.values():
        names, sizes = zip(*calls, strict=True)
        assert len(set(names)) == len(names) == count
        assert sum(sizes) == weight_bytes(model.config, "float32")


def test_orbax_takes_no_shard_size(model_dir, tmp_path):
    with pytest.raises(ValueError, match="max_shard_bytes=5: Orbax"):
        jm.save(jm.load(model_dir), tmp_path / "orbax", "orbax", max_shard_bytes=5)


def test_checksums_are_compared_unless_asked_not_to(run, model_dir, tmp_path):
    copy = shutil.copytree(model_dir, tmp_path / "copy")
    weights = copy / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)
    for command in (
        ("convert", copy, tmp_path / "out", "--to", "hf"),
        ("generate", "x", "--model", copy, "-n", 1),
    ):
        assert f"{weights} is not the file that was saved" in run(*command, code=2).stderr
        run(*command, "--no-verify")


def test_weights_in_few_bits(run, model_dir, tmp_path):
    result = run("convert", model_dir, tmp_path / "few", "--to", "hf", "--quantize", "int8")
    assert "float32 with weights in int8" in result.stderr
    settings = json.loads((tmp_path / "few" / "config.json").read_text())["quantization_config"]
    assert settings["quant_method"] == "compressed-tensors"
    same_params(jm.load(tmp_path / "few", quantize="int8"), jm.load(model_dir, quantize="int8"))
