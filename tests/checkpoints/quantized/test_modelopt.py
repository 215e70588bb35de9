"""Checkpoints of NVIDIA ModelOpt: the settings in either file, one scale per tensor."""

import json

import pytest
import torch
from quantized_checkpoints import assert_reads

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError

SETTINGS = {"quant_algo": "FP8", "kv_cache_quant_algo": "FP8", "exclude_modules": ["lm_head"]}


def pack(name, weight):
    scale = (weight.abs().max() / 448).float()
    numbers = (weight / scale).to(torch.float8_e4m3fn)
    parts = {
        f"{name}.weight": numbers,
        f"{name}.weight_scale": scale,
        f"{name}.input_scale": torch.tensor(0.5),
    }
    return parts, (numbers.float() * scale).half()


def test_settings_in_the_configuration(bench):
    assert_reads(bench.directory, bench.store({"quant_method": "modelopt", **SETTINGS}, pack))


def test_settings_in_a_file_of_their_own(bench):
    meant = bench.store(None, pack)
    values = {"producer": {"name": "modelopt", "version": "0.29.0"}, "quantization": SETTINGS}
    (bench.directory / "hf_quant_config.json").write_text(json.dumps(values))
    assert_reads(bench.directory, meant)


def test_other_algorithms_are_refused(bench):
    bench.store({"quant_method": "modelopt", "quant_algo": "NVFP4"}, pack)
    with pytest.raises(CheckpointError, match=r"'modelopt': quant_algo 'NVFP4' is not read; expected one of"):
        jm.load(bench.directory)


def test_mixtures_are_read_if_all_their_algorithms_are(bench):
    layers = {"model.layers.0.mlp.up_proj": {"quant_algo": "FP8"}}
    mixture = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": layers}
    assert_reads(bench.directory, bench.store(mixture, pack))
    layers["model.layers.0.mlp.down_proj"] = {"quant_algo": "W4A8_AWQ"}
    bench.store(mixture, pack)
    with pytest.raises(CheckpointError, match="quant_algo 'W4A8_AWQ' is not read"):
        jm.load(bench.directory)
