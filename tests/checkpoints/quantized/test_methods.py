"""Which methods of quantisation are read; others are refused by name."""

import json
from pathlib import Path

import pytest
from published_configs import DIRECTORY, NAMES

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.huggingface import open_weights
from jaxmodels.checkpoints.quantized import format_of
from jaxmodels.checkpoints.quantized.awq import Awq
from jaxmodels.checkpoints.quantized.bitsandbytes import BitsAndBytes
from jaxmodels.checkpoints.quantized.compressed_tensors import CompressedTensors
from jaxmodels.checkpoints.quantized.gptq import Gptq
from jaxmodels.checkpoints.quantized.methods import METHODS
from jaxmodels.checkpoints.quantized.mxfp4 import Mxfp4
from jaxmodels.checkpoints.quantized.scaled import Scaled

# As the libraries write them.
READ = [
    ({"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}, Mxfp4()),
    (
        {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [128, 128], "scale_fmt": "ue8m0"},
        Scaled(((128, 128),), "bfloat16"),
    ),
    ({"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0}, Scaled((), "bfloat16")),
    (
        {
            "quant_method": "compressed-tensors",
            "format": "float-quantized",
            "config_groups": {"group_0": {"weights": {"num_bits": 8, "strategy": "channel"}}},
        },
        CompressedTensors(Scaled((), "bfloat16"), (8,), "bfloat16"),
    ),
    ({"load_in_8bit": True}, BitsAndBytes("bfloat16")),
    ({"quant_method": "gptq", "bits": 4, "group_size": 128}, Gptq(4, 128, 1, "bfloat16")),
    ({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm"}, Awq(64, "bfloat16")),
]


@pytest.mark.parametrize(("settings", "expected"), READ, ids=lambda value: type(value).__name__)
def test_settings_are_understood(settings, expected):
    assert format_of({"quantization_config": settings}) == expected


QUANTISED = [
    name
    for name in NAMES
    if "quantization_config" in json.loads((DIRECTORY / f"{name}.json").read_text("utf-8"))
]


@pytest.mark.parametrize("name", QUANTISED)
def test_published_configurations_are_understood(name):
    assert format_of(json.loads((DIRECTORY / f"{name}.json").read_text("utf-8"))) is not None


def test_there_may_be_none():
    assert format_of({}) is format_of({"quantization_config": None}) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"quant_method": "aqlm"},
            "quant_method 'aqlm' are not read; use a checkpoint that is not quantised",
        ),
        ({"bits": 4}, "quant_method None are not read"),
        ("int4", "must be an object with 'quant_method', got 'int4'"),
        ({"quant_method": ["fp8"]}, r"quant_method \['fp8'\] are not read"),
        ({"quant_method": "compressed-tensors", "config_groups": {"a": 3}}, "'compressed-tensors'"),
    ],
)
def test_others_are_refused_by_name(bench, settings, message):
    bench.write(bench.tensors, settings)
    for read in (jm.load, open_weights):
        with pytest.raises(CheckpointError, match=rf"config\.json: key 'quantization_config'.*{message}"):
            read(Path(bench.directory))


def test_the_message_lists_what_is_read(bench):
    bench.write(bench.tensors, {"quant_method": "hqq"})
    with pytest.raises(CheckpointError) as error:
        jm.load(bench.directory)
    assert all(repr(method) in str(error.value) for method in METHODS)


def test_models_are_saved_unquantised(bench):
    bench.write(bench.tensors, {"quant_method": "fp8", "weight_block_size": [128, 128]})
    jm.save(jm.load(bench.directory), bench.directory / "saved")
    assert "quantization_config" not in json.loads((bench.directory / "saved" / "config.json").read_text())
