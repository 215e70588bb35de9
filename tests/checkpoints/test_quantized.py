"""Quantised weights are read as transformers reads them, bit for bit; unknown forms are refused."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.huggingface import open_weights
from jaxmodels.checkpoints.quantized import from_fp8, from_mxfp4
from jaxmodels.models.families import config_from_hf

CONFIG = {
    "model_type": "gpt_oss",
    "vocab_size": 29,
    "hidden_size": 64,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]},
}


def draw(*shape, low=0, high=256, seed=0):
    return np.random.default_rng(seed).integers(low, high, shape, dtype=np.uint8)


def test_every_code_under_every_scale():
    """All pairs of codes; scales from the least to the greatest whose numbers bfloat16 holds."""
    blocks = np.tile(np.arange(256, dtype=np.uint8).reshape(1, 16, 16), (251, 1, 1))
    scales = np.tile(np.arange(2, 253, dtype=np.uint8)[:, None], (1, 16))
    theirs = convert_moe_packed_tensors(torch.tensor(blocks)[None], torch.tensor(scales)[None])[0].T
    ours = np.asarray(from_mxfp4(blocks, scales))
    np.testing.assert_array_equal(ours.view(np.uint16), theirs.contiguous().view(torch.uint16).numpy())


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory):
    """A quantised checkpoint, and the same weights as transformers reads them."""
    quantised, plain = (tmp_path_factory.mktemp(name) for name in ("quantised", "plain"))
    values = {key: value for key, value in CONFIG.items() if key != "quantization_config"}
    jm.save(jm.init(config_from_hf(values)), plain)
    tensors = load_file(plain / "model.safetensors")
    packed = dict(tensors)
    for index, name in enumerate(sorted(tensors)):
        if name.endswith(("gate_up_proj", "down_proj")) and "experts" in name:
            experts, d_in, d_out = packed.pop(name).shape
            blocks = torch.tensor(draw(experts, d_out, d_in // 32, 16, seed=index))
            scales = torch.tensor(draw(experts, d_out, d_in // 32, low=118, high=126, seed=index))
            packed |= {f"{name}_blocks": blocks, f"{name}_scales": scales}
            tensors[name] = convert_moe_packed_tensors(blocks, scales).float()
    save_file(packed, quantised / "model.safetensors")
    save_file(tensors, plain / "model.safetensors")
    (quantised / "config.json").write_text(json.dumps(CONFIG))
    return quantised, plain


def test_a_checkpoint_is_read_as_if_it_were_not_quantised(checkpoints):
    ours, expected = (jm.load(directory) for directory in checkpoints)
    assert ours.config == expected.config
    jax.tree.map(np.testing.assert_array_equal, ours.params, expected.params)


def test_its_dtype_is_that_of_its_numbers(checkpoints):
    infos = open_weights(checkpoints[0]).infos
    experts = {name: info for name, info in infos.items() if "experts" in name and not name.endswith("bias")}
    assert {info.dtype for info in experts.values()} == {"bfloat16"}
    assert experts["model.layers.1.mlp.experts.gate_up_proj"].shape == (4, 64, 64)


def test_it_is_saved_unquantised(checkpoints, tmp_path):
    model = jm.load(checkpoints[0])
    jm.save(model, tmp_path / "saved")
    assert "quantization_config" not in json.loads((tmp_path / "saved" / "config.json").read_text())
    jax.tree.map(np.testing.assert_array_equal, jm.load(tmp_path / "saved").params, model.params)


def broken(checkpoints, tmp_path, change):
    tensors = load_file(checkpoints[0] / "model.safetensors")
    change(tensors, "model.layers.0.mlp.experts.down_proj")
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(CONFIG))


@pytest.mark.parametrize("part", ["blocks", "scales"])
def test_half_of_a_pair_is_refused(checkpoints, tmp_path, part):
    broken(checkpoints, tmp_path, lambda tensors, name: tensors.pop(f"{name}_{part}"))
    with pytest.raises(CheckpointError, match=rf"layers\.0\.mlp\.experts\.down_proj_{part}"):
        jm.load(tmp_path)


def test_shapes_that_do_not_fit_are_refused(checkpoints, tmp_path):
    def shorten(tensors, name):
        tensors[f"{name}_scales"] = tensors[f"{name}_scales"][:, 1:].contiguous()

    broken(checkpoints, tmp_path, shorten)
    with pytest.raises(CheckpointError, match=r"_blocks' has shape \[4, 64, 1, 16\].*\[4, 63, 1\], which"):
        jm.load(tmp_path)


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"quant_method": "gptq"}, "quant_method 'gptq' is not read.*'mxfp4', 'fp8'"),
        ("int4", "quant_method 'int4'"),
        (
            {"quant_method": "fp8", "weight_block_size": [64, 64]},
            r"weight_block_size \[64, 64\].*\[128, 128\]",
        ),
        ({"quant_method": "fp8", "weight_block_size": None}, "weight_block_size None"),
    ],
)
def test_other_quantisations_are_refused_by_name(checkpoints, tmp_path, quantization, message):
    values = CONFIG | {"quantization_config": quantization}
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rf"config\.json: .*{message}"):
        jm.load(tmp_path)


# --- FP8 in blocks -----------------------------------------------------------------------------------

FP8_CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 29,
    "hidden_size": 160,  # a block and a part of one
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128], "fmt": "e4m3"},
}


def draw_fp8(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(shape, generator=generator).to(torch.float8_e4m3fn)
    factors = torch.rand([-(-size // 128) for size in shape], generator=generator) + 0.01
    return numbers, factors


def test_fp8_is_what_transformers_makes_of_it():
    numbers, factors = draw_fp8(256, 384)
    theirs = Fp8Dequantize(None)._dequantize_one(numbers, factors, torch.bfloat16)
    ours = np.asarray(from_fp8(numbers.view(torch.uint8).numpy().view(jnp.float8_e4m3fn), factors.numpy()))
    np.testing.assert_array_equal(ours.view(np.uint16), theirs.view(torch.uint16).numpy())


@pytest.fixture
def fp8_checkpoint(tmp_path):
    """A directory, and its weights as they are meant."""
    values = {key: value for key, value in FP8_CONFIG.items() if key != "quantization_config"}
    jm.save(jm.init(config_from_hf(values)), tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    meant = dict(tensors)
    for index, name in enumerate(sorted(meant)):
        if name.endswith("proj.weight"):
            numbers, factors = draw_fp8(*meant[name].shape, seed=index)
            tensors |= {name: numbers, f"{name}_scale_inv": factors}
            spread = factors.repeat_interleave(128, 0).repeat_interleave(128, 1)
            rows, columns = numbers.shape
            meant[name] = (numbers.float() * spread[:rows, :columns]).bfloat16().float()
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(FP8_CONFIG))
    return tmp_path, meant


def test_fp8_checkpoints_are_read_with_blocks_that_the_edges_cut(fp8_checkpoint, tmp_path):
    directory, meant = fp8_checkpoint
    ours = jm.load(directory)
    jm.save(ours, tmp_path / "plain")
    for name, tensor in load_file(tmp_path / "plain" / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, meant[name], err_msg=name)


def test_fp8_without_its_factors_is_refused(fp8_checkpoint):
    directory, _ = fp8_checkpoint
    tensors = load_file(directory / "model.safetensors")
    del tensors["model.layers.0.mlp.up_proj.weight_scale_inv"]
    save_file(tensors, directory / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"mlp\.up_proj\.weight_scale_inv"):
        jm.load(directory)


def test_tensors_are_left_as_stored_where_no_quantisation_is_declared(fp8_checkpoint):
    directory, _ = fp8_checkpoint
    values = {key: value for key, value in FP8_CONFIG.items() if key != "quantization_config"}
    (directory / "config.json").write_text(json.dumps(values))
    infos = open_weights(directory).infos
    assert infos["model.layers.0.mlp.up_proj.weight"].dtype == "float8_e4m3fn"
    with pytest.raises(CheckpointError, match="weight_scale_inv"):
        jm.load(directory)
