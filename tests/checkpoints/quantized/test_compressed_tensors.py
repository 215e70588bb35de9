"""Checkpoints that the compressed-tensors library compressed, against what it decompresses them to."""

import pytest
import torch
from compressed_tensors.compressors import BaseCompressor
from compressed_tensors.quantization import QuantizationScheme
from quantized_checkpoints import assert_reads
from safetensors.torch import load_file

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError

FLOAT = {"num_bits": 8, "type": "float", "symmetric": True}
WHOLE = {"num_bits": 4, "type": "int", "symmetric": True}


def settings(form, weights, **others):
    return {
        "quant_method": "compressed-tensors",
        "format": form,
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": weights}},
        "ignore": ["lm_head"],
        "quantization_status": "compressed",
        **others,
    }


def scale_shape(weight, weights):
    rows, columns = weight.shape
    match weights["strategy"]:
        case "tensor":
            return (1,)
        case "channel":
            return rows, 1
        case "group":
            return rows, columns // weights["group_size"]
        case "block":
            return tuple(
                -(-n // size) for n, size in zip(weight.shape, weights["block_structure"], strict=True)
            )


def store(bench, form, weights, dtype=torch.float16):
    compressor = BaseCompressor.get_value_from_registry(form)
    scheme = QuantizationScheme(targets=["Linear"], weights=weights)
    generator = torch.Generator().manual_seed(0)

    def pack(name, weight):
        shape = scale_shape(weight, weights)
        limit = 448 if weights["type"] == "float" else 2 ** (weights["num_bits"] - 1)
        scale = weight.abs().max() / limit * (0.5 + torch.rand(shape, generator=generator))
        parts = {"weight": weight.float(), "weight_scale": scale.float()}
        if not weights["symmetric"]:
            parts["weight_zero_point"] = torch.randint(-3, 4, shape, generator=generator, dtype=torch.int8)
        parts = compressor.compress(parts, scheme)
        meant = compressor.decompress(parts, scheme)["weight"].to(dtype)
        return {f"{name}.{part}": tensor for part, tensor in parts.items()}, meant

    return bench.store(settings(form, weights), pack)


@pytest.mark.parametrize(
    ("form", "weights"),
    [
        ("float-quantized", FLOAT | {"strategy": "tensor"}),
        ("float-quantized", FLOAT | {"strategy": "channel"}),
        ("float-quantized", FLOAT | {"strategy": "block", "block_structure": [32, 32]}),
        ("int-quantized", FLOAT | {"type": "int", "strategy": "channel"}),
        ("int-quantized", FLOAT | {"type": "int", "strategy": "channel", "symmetric": False}),
        ("pack-quantized", WHOLE | {"strategy": "group", "group_size": 32}),
        ("pack-quantized", WHOLE | {"strategy": "group", "group_size": 16, "symmetric": False}),
        ("pack-quantized", WHOLE | {"strategy": "channel"}),
        ("pack-quantized", WHOLE | {"strategy": "group", "group_size": 32, "num_bits": 8}),
    ],
    ids=str,
)
def test_weights_are_those_that_the_library_decompresses(bench, form, weights):
    assert_reads(bench.directory, store(bench, form, weights))


def test_scales_of_activations_and_caches_are_dropped(bench):
    weights = FLOAT | {"strategy": "tensor"}
    meant = store(bench, "float-quantized", weights)
    names = ("mlp.up_proj.input_scale", "self_attn.k_scale", "self_attn.v_scale")
    tensors = load_file(bench.directory / "model.safetensors") | {
        f"model.layers.0.{name}": torch.ones(1) for name in names
    }
    bench.write(tensors, settings("float-quantized", weights))
    assert_reads(bench.directory, meant)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (settings("nvfp4-pack-quantized", FLOAT), "format 'nvfp4-pack-quantized' is not read"),
        (settings("pack-quantized", WHOLE | {"num_bits": 3}), r"num_bits \[3\] of weights is not read"),
        (settings("float-quantized", FLOAT, sparsity_config={"format": "sparse-24"}), "sparsity_config"),
        (
            settings(
                "float-quantized", FLOAT, transform_config={"config_groups": {"R1": {"type": "hadamard"}}}
            ),
            "transform_config",
        ),
    ],
)
def test_settings_that_are_not_read_are_refused(bench, values, message):
    bench.write(bench.tensors, values)
    with pytest.raises(CheckpointError, match=rf"'compressed-tensors': {message}"):
        jm.load(bench.directory)
