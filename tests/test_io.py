"""Whole models in and out of directories, and every way in which one can be wrong."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
import textwrap
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoint_helpers import save_to_change
from safetensors.numpy import load_file, save_file

import jaxmodels as jm
from jaxmodels.layers.spec import walk

LLAMA = {
    "model_type": "llama",
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
}
MAMBA = {
    "model_type": "mamba2",
    "vocab_size": 61,
    "hidden_size": 16,
    "num_heads": 4,
    "head_dim": 8,
    "state_size": 8,
    "n_groups": 2,
    "num_hidden_layers": 2,
}
ORIGINAL = {
    "d_model": 16,
    "n_layer": 2,
    "vocab_size": 57,
    "pad_vocab_size_multiple": 16,
    "rms_norm": True,
    "residual_in_fp32": True,
    "fused_add_norm": True,
    "tie_embeddings": True,
    "ssm_cfg": {"layer": "Mamba2", "d_state": 8, "headdim": 8},
}


def equal(a, b):
    """The same parameters, bit for bit."""
    ours, theirs = dict(walk(a.params)), dict(walk(b.params))
    return ours.keys() == theirs.keys() and all(
        leaf.dtype == theirs[path].dtype and (np.asarray(leaf) == np.asarray(theirs[path])).all()
        for path, leaf in ours.items()
    )


@pytest.fixture(scope="module")
def llama():
    return jm.init(jm.config_from_hf(LLAMA))


@pytest.fixture
def saved(llama, tmp_path):
    save_to_change(llama, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("values", [LLAMA, MAMBA, ORIGINAL], ids=["llama", "mamba2", "mamba2-original"])
@pytest.mark.parametrize("format", ["hf", "orbax"])
def test_round_trip(values, format, tmp_path):
    model = jm.init(jm.config_from_hf(values), seed=3, dtype="bfloat16")
    jm.save(model, tmp_path / "m", format)
    loaded = jm.load(tmp_path / "m", dtype="bfloat16")
    assert loaded.config == model.config
    assert equal(loaded, model)
    pinned = [leaf.dtype for path, leaf in walk(loaded.params) if path.endswith("a_log")]
    assert all(dtype == jnp.float32 for dtype in pinned)


def test_cpu_loads_float32_by_default(saved):
    assert {leaf.dtype for leaf in jax.tree.leaves(jm.load(saved).params)} == {jnp.dtype("float32")}
    assert jm.load(saved, dtype="bfloat16").params["embed"]["weight"].dtype == jnp.bfloat16


def test_shards(llama, tmp_path):
    jm.save(llama, tmp_path / "m", max_shard_bytes=8_000)
    assert len(list((tmp_path / "m").glob("model-*-of-*.safetensors"))) > 2
    assert equal(jm.load(tmp_path / "m"), llama)


def test_the_original_layout_becomes_the_transformers_layout(tmp_path):
    model = jm.init(jm.config_from_hf(ORIGINAL))
    moved = dataclasses.replace(model, config=dataclasses.replace(model.config, family="mamba2"))
    jm.save(moved, tmp_path / "m")
    loaded = jm.load(tmp_path / "m")
    assert loaded.config.family == "mamba2"
    tokens = np.arange(10)[None]
    np.testing.assert_array_equal(loaded(tokens), model(tokens))


def test_published_pickles_are_read_only_on_request(tmp_path):
    torch = pytest.importorskip("torch")
    model = jm.init(jm.config_from_hf(ORIGINAL))
    save_to_change(model, tmp_path / "m")
    tensors = load_file(tmp_path / "m" / "model.safetensors")
    tensors["lm_head.weight"] = tensors["backbone.embedding.weight"]  # stored although tied
    torch.save(
        {name: torch.from_numpy(tensor) for name, tensor in tensors.items()},
        tmp_path / "m" / "pytorch_model.bin",
    )
    (tmp_path / "m" / "model.safetensors").unlink()
    with pytest.raises(jm.CheckpointError, match=r"pytorch_model\.bin.*allow_pickle=True"):
        jm.load(tmp_path / "m")
    assert equal(jm.load(tmp_path / "m", allow_pickle=True), model)


def rewrite(directory, change):
    file = directory / "model.safetensors"
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, {"format": "pt"})


def test_a_missing_tensor_is_named(saved):
    rewrite(saved, lambda t: t.pop("model.layers.1.mlp.up_proj.weight"))
    with pytest.raises(jm.CheckpointError, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        jm.load(saved)


def test_a_wrong_shape_is_named(saved):
    rewrite(saved, lambda t: t.update({"model.norm.weight": np.ones(23, np.float32)}))
    with pytest.raises(jm.CheckpointError, match=r"'model\.norm\.weight' has shape \[23\], .* \[24\]"):
        jm.load(saved)


def test_an_unexpected_tensor_is_named(saved):
    rewrite(saved, lambda t: t.update({"model.layers.0.extra.weight": np.ones(2, np.float32)}))
    with pytest.raises(jm.CheckpointError, match=r"'model\.layers\.0\.extra\.weight' .* not part of"):
        jm.load(saved)


def test_stored_rotary_frequencies_are_not_needed(saved, llama):
    rewrite(saved, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4)}))
    assert equal(jm.load(saved), llama)


def test_a_truncated_file_is_named(saved):
    file = saved / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(jm.CheckpointError, match=r"model\.safetensors"):
        jm.load(saved)


def test_a_corrupt_header_is_named(saved):
    file = saved / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[8:40] = b"x" * 32
    file.write_bytes(bytes(data))
    with pytest.raises(jm.CheckpointError, match=r"model\.safetensors"):
        jm.load(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "llamma"}, r"config\.json: .*'model_type' is 'llamma'; the families are: .*llama"),
        ({"model_type": None}, r"'model_type' is None"),
        ({"hidden_act": "sine"}, "sine"),
        ({"num_key_value_heads": 2}, "'num_key_value_heads' must divide 'num_attention_heads' = 3, got 2"),
        ({"hidden_size": None}, "'hidden_size' is missing"),
        ({"hidden_size": "24"}, "'hidden_size' must be a whole number, got '24'"),
        ({"num_hidden_layers": -1}, "'num_hidden_layers' must be a whole number >= 1 and <= 4096, got -1"),
        ({"num_hidden_layers": 0}, "'num_hidden_layers' must be a whole number >= 1"),
        ({"rope_parameters": {"rope_type": "spiral", "rope_theta": 1e4}}, "spiral"),
        ({"flash_mode": 3}, "unknown config keys {'flash_mode': 3}"),
    ],
    ids=str,
)
def test_a_bad_config_is_named(saved, change, message):
    file = saved / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(jm.CheckpointError, match=message):
        jm.load(saved)


def test_unreadable_configs_are_named(saved):
    (saved / "config.json").write_text("{")
    with pytest.raises(jm.CheckpointError, match=r"config\.json"):
        jm.load(saved)
    (saved / "config.json").unlink()
    with pytest.raises(jm.CheckpointError, match=r"config\.json does not exist"):
        jm.load(saved)


def test_a_model_without_a_family_is_not_written(llama, tmp_path):
    stray = dataclasses.replace(llama, config=dataclasses.replace(llama.config, family=None))
    with pytest.raises(jm.CheckpointError, match=r"config\.family is None"):
        jm.save(stray, tmp_path / "m")
    assert not (tmp_path / "m").exists()
    with pytest.raises(ValueError, match="format must be 'hf' or 'orbax', got 'gguf'"):
        jm.save(llama, tmp_path / "m", "gguf")


CHILD = """
import sys, jax
import jaxmodels as jm
from jaxmodels.checkpoints import huggingface
model = jm.init(jm.config_from_hf({config}), seed=1)
def stall(name, size):
    if name == {tensor!r}:
        print("stalled", flush=True)
        sys.stdin.read()
jm.save(model, {path!r}, progress=stall)
"""


def test_a_save_killed_half_way_leaves_the_previous_checkpoint(saved, llama):
    """A real SIGKILL while the last tensor is about to be written."""
    code = textwrap.dedent(CHILD).format(config=LLAMA, tensor="lm_head.weight", path=str(saved))
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    child = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment
    )
    assert child.stdout.readline() == b"stalled\n"
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert equal(jm.load(saved), llama)
    jm.save(llama, saved)  # the next save clears what the killed one left
    assert [path.name for path in saved.parent.iterdir()] == [saved.name]


@pytest.mark.parametrize("format", ["hf", "orbax"])
def test_parameters_that_are_not_finite_are_saved_with_a_warning(llama, tmp_path, format):
    weight = llama.params["embed"]["weight"].at[3, 5].set(np.nan).at[4, 5].set(-np.inf)
    damaged = dataclasses.replace(llama, params={**llama.params, "embed": {"weight": weight}})
    with pytest.warns(
        UserWarning, match="2 numbers of 1 parameters are NaN or infinite, 2 of them in 'embed/weight'"
    ):
        jm.save(damaged, tmp_path / "m", format)
    np.testing.assert_array_equal(jm.load(tmp_path / "m").params["embed"]["weight"], weight)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jm.save(llama, tmp_path / "m", format)
