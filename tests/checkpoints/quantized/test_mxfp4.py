"""Weights in MXFP4 are read as transformers reads them, bit for bit."""

import json

import jax
import numpy as np
import pytest
import torch
from checkpoint_helpers import save_to_change
from safetensors.torch import load_file, save_file
from transformers.integrations.mxfp4 import convert_moe_packed_tensors

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.huggingface import open_weights
from jaxmodels.checkpoints.quantized.mxfp4 import from_mxfp4
from jaxmodels.layers.quantized.array import QuantizedArray, dequantized
from jaxmodels.layers.spec import walk
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
    save_to_change(jm.init(config_from_hf(values)), plain)
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
    with pytest.raises(
        CheckpointError, match=r"do not fit each other: .*_blocks' \[4, 64, 1, 16\], .*_scales' \[4, 63, 1\];"
    ):
        jm.load(tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_experts_are_held_as_they_are_stored(checkpoints, dtype):
    held = jm.load(checkpoints[0], dtype, quantize="mxfp4-experts")
    expected = dict(walk(jm.load(checkpoints[1], dtype).params))
    experts = [path for path, leaf in walk(held.params) if isinstance(leaf, QuantizedArray)]
    assert experts == [f"blocks/{i}/ffn/experts/w_{name}" for i in (0, 1) for name in ("gate_up", "down")]
    for path, leaf in walk(held.params):
        np.testing.assert_array_equal(dequantized(leaf), expected[path], err_msg=path)
    numbers = sum(expected[path].size for path in experts)
    assert sum(held_leaf.nbytes for path, held_leaf in walk(held.params) if path in experts) == (
        numbers // 2 + numbers // 32
    )
