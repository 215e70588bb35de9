"""Weights in eight bits with scales, against transformers where it reads them, else against their product."""

import numpy as np
import pytest
import torch
from quantized_checkpoints import assert_reads
from safetensors.torch import load_file
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.huggingface import open_weights

BLOCKS = {"quant_method": "fp8", "weight_block_size": [32, 16], "fmt": "e4m3", "activation_scheme": "dynamic"}
FBGEMM = {"quant_method": "fbgemm_fp8", "activation_scale_ub": 1200.0, "modules_to_not_convert": ["lm_head"]}
UP = "model.layers.0.mlp.up_proj"


def draw(weight, grid, dtype=torch.float8_e4m3fn, seed=0):
    generator = torch.Generator().manual_seed(seed)
    numbers = torch.randn(weight.shape, generator=generator).to(dtype)
    return numbers, torch.rand(grid, generator=generator) + 0.01


def packer(grid, scale="weight_scale", **others):
    """Stores a layer in float8 with scales of the shape that `grid` gives for the weight's."""

    def pack(name, weight):
        numbers, scales = draw(weight, grid(*weight.shape))
        parts = {f"{name}.weight": numbers, f"{name}.{scale}": scales}
        spread = scales if scales.dim() < 2 else scales.expand(weight.shape)
        return parts | {f"{name}.{other}": value.clone() for other, value in others.items()}, (
            numbers.float() * spread
        ).half()

    return pack


def pack_blocks(name, weight):
    """Blocks of 32 x 16, which transformers decodes; scales of some layers are exponents, in both forms."""
    rows, columns = weight.shape
    numbers, scales = draw(weight, (rows // 32, columns // 16))
    if "self_attn" in name:
        scales = torch.randint(110, 126, scales.shape, dtype=torch.uint8)
    if "q_proj" in name:
        scales = scales.view(torch.float8_e8m0fnu)
    meant = Fp8Dequantize(None)._dequantize_one(numbers, scales, torch.float16)
    return {f"{name}.weight": numbers, f"{name}.weight_scale_inv": scales}, meant


def test_blocks_are_what_transformers_makes_of_them(bench):
    assert_reads(bench.directory, bench.store(BLOCKS, pack_blocks))


def test_blocks_may_be_cut_off_at_the_edges(bench):
    def pack(name, weight):
        numbers, scales = draw(weight, tuple(-(-size // 48) for size in weight.shape))
        spread = scales.repeat_interleave(48, 0).repeat_interleave(48, 1)
        meant = numbers.float() * spread[: weight.shape[0], : weight.shape[1]]
        return {f"{name}.weight": numbers, f"{name}.weight_scale_inv": scales}, meant.half()

    assert_reads(bench.directory, bench.store(BLOCKS | {"weight_block_size": [48, 48]}, pack))


@pytest.mark.parametrize(
    ("settings", "pack"),
    [
        (FBGEMM, packer(lambda rows, columns: (rows, 1), input_scale_ub=torch.tensor([1200.0]))),
        ({"quant_method": "fp8"}, packer(lambda rows, columns: (), input_scale=torch.tensor(0.5))),
        ({"quant_method": "fp8"}, packer(lambda rows, columns: (1,), activation_scale=torch.ones(1))),
        (
            {"quant_method": "fp8", "weight_block_size": None, "activation_scheme": "static"},
            packer(lambda rows, columns: (), "weight_scale_inv"),
        ),
    ],
    ids=["fbgemm", "one scale", "one scale in a list", "one inverse scale"],
)
def test_scales_of_rows_and_of_tensors(bench, settings, pack):
    assert_reads(bench.directory, bench.store(settings, pack))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", None])
def test_weights_get_the_dtype_of_the_model(bench, dtype):
    """bfloat16 where the configuration names none."""
    bench.store(FBGEMM, packer(lambda rows, columns: (rows, 1)))
    stored = load_file(bench.directory / "model.safetensors")
    reader = open_weights(bench.write(stored, FBGEMM, dtype=dtype))
    meant = stored[f"{UP}.weight"].float() * stored[f"{UP}.weight_scale"]
    meant = meant.to(getattr(torch, dtype or "bfloat16"))
    assert reader.infos[f"{UP}.weight"].dtype == (dtype or "bfloat16")
    np.testing.assert_array_equal(reader.read(f"{UP}.weight").astype(np.float32), meant.float())


def test_a_weight_without_its_scales_is_refused(bench):
    bench.store(BLOCKS, lambda name, weight: ({f"{name}.weight": draw(weight, ())[0]}, weight))
    with pytest.raises(CheckpointError, match=r"no tensor '.*_proj\.weight_scale_inv'"):
        jm.load(bench.directory)


def test_scales_that_do_not_fit_are_refused(bench):
    bench.store(BLOCKS | {"weight_block_size": [128, 128]}, pack_blocks)
    with pytest.raises(CheckpointError, match=r"do not fit each other.*one per block of \[128, 128\]"):
        jm.load(bench.directory)


@pytest.mark.parametrize("block", [[64], [0, 64], "128", [64.5, 64]])
def test_block_sizes_that_are_none_are_refused(bench, block):
    bench.store(BLOCKS | {"weight_block_size": block}, pack_blocks)
    with pytest.raises(CheckpointError, match=r"config\.json: .*weight_block_size must be"):
        jm.load(bench.directory)


def test_tensors_are_left_as_stored_where_no_quantisation_is_declared(bench):
    bench.store(None, pack_blocks)
    assert open_weights(bench.directory).infos[f"{UP}.weight"].dtype == "float8_e4m3fn"
    with pytest.raises(CheckpointError, match="weight_scale_inv"):
        jm.load(bench.directory)
