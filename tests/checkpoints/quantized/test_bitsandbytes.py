"""Checkpoints that transformers quantised with bitsandbytes, against what bitsandbytes decodes them to."""

import copy
import json
import math

import bitsandbytes as bnb
import pytest
import torch
from adapters_of_peft import TOKENS, adapt, assert_logits, logits_of
from peft import PeftModel
from quantized_checkpoints import VALUES, assert_reads
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError


def quantised(bench, dtype=torch.float16, **options):
    """Writes a checkpoint; gives the weights that it stands for."""
    plain = bench.directory / "plain"
    plain.mkdir()
    save_file(dict(bench.tensors), plain / "model.safetensors", metadata={"format": "pt"})
    (plain / "config.json").write_text(json.dumps(VALUES))
    model = AutoModelForCausalLM.from_pretrained(
        plain, quantization_config=BitsAndBytesConfig(**options), dtype=dtype
    )
    model.save_pretrained(bench.directory)
    meant = {
        name: tensor
        for name, tensor in model.state_dict().items()
        if name in bench.tensors and tensor.is_floating_point()
    }
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            weight = decode_four_bits(module.weight)
        elif isinstance(module, bnb.nn.Linear8bitLt):
            weight = bnb.functional.int8_vectorwise_dequant(module.weight.data, module.weight.SCB).to(dtype)
        else:
            continue
        meant[f"{name}.weight"] = weight
    assert set(bench.tensors) == set(meant)
    return meant


def decode_four_bits(weight):
    """What the library makes of a weight, as one row: its kernel for CPU begins a block with each row, while
    quantising and the kernels for GPUs do not.
    """
    state = copy.copy(weight.quant_state)
    shape, state.shape = state.shape, torch.Size([1, math.prod(state.shape)])
    return bnb.functional.dequantize_4bit(weight.data, state).reshape(shape)


FOUR_BITS = [
    {"bnb_4bit_quant_type": "nf4"},
    {"bnb_4bit_quant_type": "nf4", "bnb_4bit_use_double_quant": True},
    {"bnb_4bit_quant_type": "fp4", "bnb_4bit_use_double_quant": True},
    {"bnb_4bit_quant_type": "fp4", "bnb_4bit_quant_storage": "bfloat16"},
]


@pytest.mark.parametrize("options", FOUR_BITS, ids=str)
def test_four_bits(bench, options):
    assert_reads(bench.directory, quantised(bench, load_in_4bit=True, **options))


def test_four_bits_of_bfloat16(bench):
    assert_reads(bench.directory, quantised(bench, torch.bfloat16, load_in_4bit=True))


def test_eight_bits(bench):
    assert_reads(bench.directory, quantised(bench, load_in_8bit=True))


def test_layers_of_gpt2_keep_inputs_before_outputs(tmp_path):
    base = adapt(tmp_path, "gpt2", r=2, target_modules=["c_attn"]).base
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
    model = AutoModelForCausalLM.from_pretrained(base, quantization_config=settings, dtype=torch.float32)
    model.save_pretrained(tmp_path / "quantised")
    plain = AutoModelForCausalLM.from_pretrained(base)
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            plain.get_submodule(name).weight.data = decode_four_bits(module.weight).T
    assert_logits(jm.load(tmp_path / "quantised")(TOKENS), logits_of(plain))


def test_adapters_are_merged_into_what_is_decoded(tmp_path):
    """The base that QLoRA trains an adapter for."""
    adapted = adapt(tmp_path, "llama", r=4, target_modules=["q_proj", "down_proj"])
    settings = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_use_double_quant=True)
    model = AutoModelForCausalLM.from_pretrained(
        adapted.base, quantization_config=settings, dtype=torch.float32
    )
    model.save_pretrained(tmp_path / "quantised")
    plain = AutoModelForCausalLM.from_pretrained(adapted.base)
    for name, module in model.named_modules():
        if isinstance(module, bnb.nn.Linear4bit):
            plain.get_submodule(name).weight.data = decode_four_bits(module.weight)
    expected = logits_of(PeftModel.from_pretrained(plain, adapted.adapter))
    assert_logits(jm.load(tmp_path / "quantised", adapter=adapted.adapter)(TOKENS), expected)


def change(directory, edit):
    tensors = load_file(directory / "model.safetensors")
    edit(tensors)
    save_file(tensors, directory / "model.safetensors")


UP = "model.layers.0.mlp.up_proj"


def test_a_missing_part_is_refused(bench):
    quantised(bench, load_in_4bit=True)
    change(bench.directory, lambda tensors: tensors.pop(f"{UP}.weight.absmax"))
    with pytest.raises(CheckpointError, match=rf"no tensor '{UP}\.weight\.absmax'"):
        jm.load(bench.directory)


def test_parts_that_do_not_fit_are_refused(bench):
    quantised(bench, load_in_4bit=True, bnb_4bit_use_double_quant=True)
    part = f"{UP}.weight.nested_quant_map"
    change(bench.directory, lambda tensors: tensors.update({part: tensors[part][1:].clone()}))
    with pytest.raises(CheckpointError, match=r"do not fit each other.*nested_quant_map' \[255\]"):
        jm.load(bench.directory)


def test_a_broken_state_is_refused(bench):
    quantised(bench, load_in_4bit=True)
    state = f"{UP}.weight.quant_state.bitsandbytes__fp4"
    change(bench.directory, lambda tensors: tensors.update({state: torch.zeros(9, dtype=torch.uint8)}))
    with pytest.raises(CheckpointError, match=rf"{state}' must hold the JSON that bitsandbytes writes"):
        jm.load(bench.directory)


def test_rows_arranged_for_a_kernel_are_refused(bench):
    quantised(bench, load_in_8bit=True)
    name = f"{UP}.weight_format"
    change(bench.directory, lambda tensors: tensors.update({name: torch.tensor(3, dtype=torch.uint8)}))
    with pytest.raises(CheckpointError, match=rf"{name}' says that the weight is arranged for one kernel"):
        jm.load(bench.directory)
