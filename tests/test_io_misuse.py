"""`load`, `save` and `init` called wrongly: one sentence that names the argument, and nothing written."""

import contextlib
import dataclasses
import os
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict, unflatten_dict

import jaxmodels as jm
from jaxmodels import memory
from jaxmodels.layers.spec import walk

MODEL = "tiny-mamba2"


@pytest.fixture(scope="module")
def model():
    return jm.load(MODEL)


LOADS = {
    "no name": (("",), {}, "name_or_path must be a path or a name, .*got ''"),
    "None": ((None,), {}, "name_or_path must be a path .*got None"),
    "a number": ((3,), {}, "name_or_path must be a path .*got 3"),
    "bytes": ((b"tiny-mamba2",), {}, "name_or_path must be a path"),
    "a list": ((["tiny-mamba2"],), {}, "name_or_path must be a path"),
    "a zero byte": (("tiny\0mamba2",), {}, "name_or_path must be a path"),
    "an unknown name": (("tiny-mamba3",), {}, "'tiny-mamba3' is no model"),
    "an integer dtype": ((MODEL, "int32"), {}, "dtype must be one of float32, bfloat16, float16, got 'in"),
    "a boolean dtype": ((MODEL, bool), {}, "dtype must be one of float32"),
    "a complex dtype": ((MODEL, jnp.complex64), {}, "dtype must be one of float32"),
    "a small float": ((MODEL, "float8_e4m3fn"), {}, "dtype must be one of float32"),
    "float64": ((MODEL, np.float64), {}, "dtype must be one of float32"),
    "an unknown dtype": ((MODEL, "float33"), {}, "dtype must be one of float32, .*'float33'"),
    "a number as dtype": ((MODEL, 16), {}, "dtype must be one of float32, .*16"),
    "an empty dtype": ((MODEL, ""), {}, "dtype must be one of float32"),
    "a list as dtype": ((MODEL, ["float32"]), {}, "dtype must be one of float32"),
    "a function as dtype": ((MODEL, len), {}, "dtype must be one of float32"),
    "revision of a wrong kind": ((MODEL,), {"revision": 3}, "revision must be text or None, got 3"),
    "an empty revision": ((MODEL,), {"revision": ""}, "revision must be text or None, got ''"),
    "revision of a bundled model": ((MODEL,), {"revision": "main"}, "revision is 'main', but 'tiny-mamba2'"),
    "allow_pickle as text": ((MODEL,), {"allow_pickle": "no"}, "allow_pickle must be True or False"),
    "text_only None": ((MODEL,), {"text_only": None}, "text_only must be True or False, got None"),
    "verify as number": ((MODEL,), {"verify": 1}, "verify must be True or False, got 1"),
    "progress as text": ((MODEL,), {"progress": "bar"}, "progress must be a function .*got 'bar'"),
    "progress True": ((MODEL,), {"progress": True}, "progress must be a function .*got True"),
}


@pytest.mark.parametrize(("arguments", "options", "message"), LOADS.values(), ids=LOADS)
def test_load_names_what_it_was_given_wrongly(arguments, options, message):
    with pytest.raises(ValueError, match=message) as raised:
        jm.load(*arguments, **options)
    assert "\n" not in str(raised.value)


SAVES = {
    "no path": ({"path": ""}, "path must be a path"),
    "path None": ({"path": None}, "path must be a path .*got None"),
    "a number as path": ({"path": 3}, "path must be a path"),
    "a user who is not there": ({"path": "~nobody-of-this-name/x"}, "'~nobody-of-this-name/x' is no path"),
    "a name too long": ({"path": "x" * 5000}, r"x{200,300}\.\.\. cannot be read: File name too long"),
    "a device": ({"path": os.devnull}, "is a file; a checkpoint is saved to a directory"),
    "format None": ({"format": None}, "format must be 'hf' or 'orbax', got None"),
    "a list as format": ({"format": ["hf"]}, r"format must be 'hf' or 'orbax', got \['hf'\]"),
    "an unknown format": ({"format": "gguf"}, "format must be 'hf' or 'orbax', got 'gguf'"),
    "text as size": ({"max_shard_bytes": "2GB"}, "max_shard_bytes must be a whole number, got '2GB'"),
    "a fraction as size": ({"max_shard_bytes": 2.5}, "max_shard_bytes must be a whole number, got 2.5"),
    "no size": ({"max_shard_bytes": 0}, "max_shard_bytes must be a whole number >= 1 .*got 0"),
    "a negative size": ({"max_shard_bytes": -1}, "max_shard_bytes must be a whole number >= 1"),
    "True as size": ({"max_shard_bytes": True}, "max_shard_bytes must be a whole number, got True"),
    "a size for Orbax": ({"format": "orbax", "max_shard_bytes": 9}, "max_shard_bytes=9: Orbax chooses"),
    "progress as number": ({"progress": 5}, "progress must be a function .*got 5"),
    "no model": ({"model": None}, "model must be a Model, .*got None"),
    "parameters as model": ({"model": {"embed": {}}}, r"model must be a Model, .*got \{'embed': \{\}\}"),
    "a class as model": ({"model": jm.Model}, "model must be a Model"),
}


@pytest.mark.parametrize(("changes", "message"), SAVES.values(), ids=SAVES)
def test_save_names_what_it_was_given_wrongly(changes, message, model, tmp_path):
    with pytest.raises(ValueError, match=message):
        jm.save(**{"model": model, "path": tmp_path / "m", **changes})
    assert not list(tmp_path.iterdir())


def test_metadata_that_has_no_json_form(model, tmp_path):
    for metadata in ({"note": object()}, {3: 1}):
        with pytest.raises(jm.CheckpointError, match="metadata has no JSON form"):
            jm.save(dataclasses.replace(model, metadata=metadata), tmp_path / "m")
    assert not list(tmp_path.iterdir())


def test_a_destination_that_leads_in_a_circle(model, tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(jm.CheckpointError, match="loop cannot be read: Too many levels of symbolic links"):
        jm.save(model, tmp_path / "loop")


NORM = "blocks/0/mixer_norm/scale"
PARAMS = {
    "a wrong shape": ({"head/weight": jnp.ones((3, 4))}, r"'head/weight' has shape \[3, 4\], expected \["),
    "as many numbers": ({NORM: "transposed"}, rf"'{NORM}' has shape \[1, \d+\], expected \[\d+\]"),
    "an unknown one": ({"head/bias": jnp.ones(3)}, r"have \['head/bias'\], 0 missing and 1 unknown"),
    "a missing one": ({NORM: None}, rf"lack \['{NORM}'\], 1 missing and 0 unknown"),
    "integers": ({NORM: "integers"}, f"'{NORM}' has dtype int32, expected a floating one"),
    "a number": ({NORM: 1.0}, f"'{NORM}' must be an array, got float"),
    "a list": ({NORM: [1.0]}, f"'{NORM}' must be an array, got list"),
    "one given away": ({NORM: "deleted"}, f"'{NORM}' was given away to a compiled program"),
    "a shape alone": ({NORM: "shape"}, f"'{NORM}' must be an array, got ShapeDtypeStruct"),
}


def with_parameters(model, changes):
    leaves = flatten_dict(model.params, keep_empty_nodes=True, sep="/")

    def deleted(leaf):
        copy = leaf + 0
        copy.delete()
        return copy

    made = {
        "deleted": deleted,
        "transposed": lambda leaf: leaf[None],
        "integers": lambda leaf: leaf.astype(jnp.int32),
        "shape": lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype),
    }
    for path, value in changes.items():
        if value is None:
            del leaves[path]
        else:
            leaves[path] = made[value](leaves[path]) if isinstance(value, str) else value
    return dataclasses.replace(model, params=unflatten_dict(leaves, sep="/"))


@pytest.mark.parametrize("format", ["hf", "orbax"])
@pytest.mark.parametrize(("changes", "message"), PARAMS.values(), ids=PARAMS)
def test_save_names_parameters_that_are_not_the_model_s(changes, message, format, model, tmp_path):
    if "head/weight" in changes:
        model = dataclasses.replace(model, config=dataclasses.replace(model.config, tie_embeddings=False))
    with pytest.raises(ValueError, match=message):
        jm.save(with_parameters(model, changes), tmp_path / "m", format)
    assert not list(tmp_path.iterdir())


def test_save_refuses_parameters_that_are_no_dict(model, tmp_path):
    with pytest.raises(ValueError, match="params must be a nested dict of arrays, got list"):
        jm.save(dataclasses.replace(model, params=[]), tmp_path / "m")


INITS = {
    "a dictionary": (({"model_type": "llama"},), "config must be a Decoder, as config_from_hf gives"),
    "None": ((None,), "config must be a Decoder, .*got None"),
    "seed as text": (("decoder", "0"), "seed must be a whole number, got '0'"),
    "a fraction as seed": (("decoder", 0.5), "seed must be a whole number, got 0.5"),
    "a negative seed": (("decoder", -1), "seed must be a whole number >= 0 .*got -1"),
    "a huge seed": (("decoder", 2**80), "seed must be a whole number .*got 1208925819614629174706176"),
    "an integer dtype": (("decoder", 0, "int8"), "dtype must be one of float32, .*'int8'"),
    "no dtype": (("decoder", 0, None), "dtype must be one of float32, .*None"),
}


@pytest.mark.parametrize(("arguments", "message"), INITS.values(), ids=INITS)
def test_init_names_what_it_was_given_wrongly(arguments, message, model):
    first, *rest = arguments
    with pytest.raises(ValueError, match=message):
        jm.init(model.config if first == "decoder" else first, *rest)


def test_init_says_how_much_memory_a_model_needs(model):
    huge = dataclasses.replace(model.config, vocab_size=10**13)
    message = (
        r"float32 model of .*10000000000000 tokens \(vocab_size\) needs [\d,]{17,} bytes .* [\d,]+ bytes"
    )
    with pytest.raises(ValueError, match=message):
        jm.init(huge)


def test_numpy_numbers_and_dtypes_will_do(model, tmp_path):
    jm.save(model, tmp_path / "m", max_shard_bytes=np.int64(10**6))
    assert jm.load(str(tmp_path / "m"), np.dtype("float16")).params["embed"]["weight"].dtype == jnp.float16
    assert jm.init(model.config, np.int32(3), jnp.bfloat16).params["embed"]["weight"].dtype == jnp.bfloat16


GARBAGE = {
    "nothing": b"", "half an object": b"{", "a list": b"[]", "null": b"null", "text": b'"x"',
    "no UTF-8": b"\xff\xfe",
    "deep lists": b"[" * 100_000, "deep objects": b'{"a":' * 50_000, "an empty object": b"{}",
    "half a template": b"{% for x in %}", "a division by zero": b"{{ 1 // 0 }}",
    "a wrong kind": b'{"model": 3}',
}  # fmt: skip


@pytest.fixture(scope="module")
def with_tokenizer(tmp_path_factory):
    """A directory with every kind of file."""
    directory = tmp_path_factory.mktemp("models") / "tiny"
    jm.save(jm.load("tiny-qwen3"), directory)
    return directory


@pytest.mark.parametrize("garbage", GARBAGE.values(), ids=GARBAGE)
def test_what_is_wrong_with_a_file_is_a_checkpoint_error(garbage, with_tokenizer, tmp_path):
    """Or what was in the file is not needed: settings and templates are optional."""
    files = sorted(path.name for path in with_tokenizer.iterdir())
    assert {"config.json", "generation_config.json", "model.safetensors", "tokenizer.json"} <= set(files)
    for file in (*files, "chat_template.jinja", "special_tokens_map.json"):
        shutil.copytree(with_tokenizer, tmp_path / file, copy_function=os.link)
        (tmp_path / file / file).unlink(missing_ok=True)
        (tmp_path / file / file).write_bytes(garbage)
        needed = file in ("config.json", "model.safetensors")
        with pytest.raises(jm.CheckpointError) if needed else contextlib.suppress(jm.CheckpointError):
            jm.load(tmp_path / file, verify=False)


def test_what_nobody_thought_of_is_a_checkpoint_error_too(monkeypatch):
    def broken(directory):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(jm.checkpoints.GenerationDefaults, "load", broken)
    with pytest.raises(jm.CheckpointError, match="tiny-mamba2 cannot be read: ZeroDivisionError: division"):
        jm.load(MODEL)


@pytest.mark.parametrize("format", ["hf", "orbax"])
def test_what_progress_raises_is_the_caller_s(format, model, tmp_path):
    def interrupt(name, size):
        raise TimeoutError("too slow")

    jm.save(model, tmp_path / "m", format)
    with pytest.raises(TimeoutError, match="too slow"):
        jm.load(tmp_path / "m", progress=interrupt)


def test_a_checkpoint_beyond_the_free_memory_is_named(model, tmp_path, monkeypatch):
    jm.save(model, tmp_path / "m")
    monkeypatch.setattr(memory, "free_bytes", lambda: 1_000_000)
    with pytest.raises(
        jm.CheckpointError, match=r"/m: a float32 model .* needs [\d,]+ bytes .*but 1,000,000 b"
    ):
        jm.load(tmp_path / "m")


def test_a_directory_of_the_user_s_does_not_hide_the_weights(model, tmp_path):
    jm.save(model, tmp_path / "m")
    (tmp_path / "m" / "params").mkdir()
    (tmp_path / "m" / "params" / "notes.txt").write_text("learning rate 3e-4")
    loaded = jm.load(tmp_path / "m")
    for (path, leaf), (_, wanted) in zip(walk(loaded.params), walk(model.params), strict=True):
        np.testing.assert_array_equal(leaf, wanted, err_msg=path)
