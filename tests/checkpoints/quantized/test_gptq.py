"""Checkpoints of GPTQ, packed here as AutoGPTQ does it, one number after another."""

import json

import numpy as np
import pytest
import torch
from quantized_checkpoints import assert_reads
from safetensors.torch import load_file

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError

SETTINGS = {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": False, "sym": True}


def pack_rows(numbers, bits):
    """[R, C] to [R * bits / 32, C]: the numbers of a column follow one another, the lowest bits first."""
    per_word = 32 // bits
    words = np.zeros((numbers.shape[0] // per_word, numbers.shape[1]), np.uint32)
    for row in range(numbers.shape[0]):
        words[row // per_word] |= numbers[row].astype(np.uint32) << np.uint32(bits * (row % per_word))
    return torch.tensor(words.view(np.int32))


def packer(bits, group_size, *, stored_less=1, shuffled=False, with_groups=True):
    """Stores random numbers of a layer; the weight that they mean is computed before they are packed."""
    rng = np.random.default_rng(0)

    def pack(name, weight):
        outputs, inputs = weight.shape
        size = inputs if group_size == -1 else group_size
        groups = np.arange(inputs) // size
        if shuffled:
            groups = rng.permutation(groups)
        numbers = rng.integers(0, 2**bits, (inputs, outputs))
        zeros = rng.integers(1, 2**bits, (inputs // size, outputs))
        scales = rng.uniform(0.001, 0.02, zeros.shape).astype(np.float16)
        meant = np.empty((outputs, inputs), np.float32)
        for i in range(inputs):
            group = groups[i]
            meant[:, i] = scales[group].astype(np.float32) * (numbers[i] - zeros[group])
        parts = {
            f"{name}.qweight": pack_rows(numbers, bits),
            f"{name}.qzeros": pack_rows((zeros - stored_less).T, bits).T.contiguous(),
            f"{name}.scales": torch.tensor(scales),
        }
        if with_groups:
            parts[f"{name}.g_idx"] = torch.tensor(groups, dtype=torch.int32)
        return parts, torch.tensor(meant).half()

    return pack


@pytest.mark.parametrize(
    ("settings", "options"),
    [
        ({}, {}),
        ({"desc_act": True, "sym": False}, {"shuffled": True}),
        ({"checkpoint_format": "gptq_v2"}, {"stored_less": 0}),
        ({}, {"with_groups": False}),
        ({"group_size": -1}, {"with_groups": False}),
        ({"bits": 8}, {}),
        ({"bits": 2, "group_size": 16}, {}),
    ],
    ids=str,
)
def test_weights_are_those_that_were_packed(bench, settings, options):
    settings = SETTINGS | settings
    meant = bench.store(settings, packer(settings["bits"], settings["group_size"], **options))
    assert_reads(bench.directory, meant)


def test_layers_may_differ_in_width(bench):
    """As `dynamic` of GPTQModel makes them."""
    packers = {True: packer(8, 32), False: packer(4, 32)}
    meant = bench.store(SETTINGS, lambda name, weight: packers["mlp" in name](name, weight))
    assert_reads(bench.directory, meant)


def test_biases_of_zeros_are_left_out(bench):
    """AutoGPTQ stores them for layers without a bias."""
    meant = bench.store(SETTINGS, packer(4, 32))
    stored = load_file(bench.directory / "model.safetensors")
    zeros = {f"{name}.bias": torch.zeros(meant[f"{name}.weight"].shape[0]).half() for name in bench.linears}
    bench.write(zeros | stored, SETTINGS)
    jm.save(jm.load(bench.directory), bench.directory / "saved")
    for name, tensor in load_file(bench.directory / "saved" / "model.safetensors").items():
        np.testing.assert_array_equal(tensor, meant[name].float(), err_msg=name)
    ones = {name: tensor + 1 for name, tensor in zeros.items()}
    bench.write(ones | stored, SETTINGS)
    with pytest.raises(CheckpointError, match=r"_proj\.bias' of shape .* is not part of the model"):
        jm.load(bench.directory)


def test_the_settings_may_be_in_a_file_of_their_own(bench):
    meant = bench.store(None, packer(4, 32))
    settings = {key: value for key, value in SETTINGS.items() if key != "quant_method"}
    (bench.directory / "quantize_config.json").write_text(json.dumps(settings))
    assert_reads(bench.directory, meant)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": 3}, r"bits is 3; expected one of \(2, 4, 8\)"),
        ({"bits": None}, "bits is None"),
        ({"group_size": 0}, "group_size must be a whole number >= 1"),
        ({"checkpoint_format": "marlin"}, "checkpoint_format 'marlin'.*'gptq', 'gptq_v2'"),
        ({"is_marlin_format": True}, "is_marlin_format True"),
    ],
)
def test_settings_that_are_not_read_are_refused(bench, settings, message):
    bench.store(SETTINGS | settings, packer(4, 32))
    with pytest.raises(CheckpointError, match=rf"config\.json: key 'quantization_config'.*'gptq': {message}"):
        jm.load(bench.directory)


@pytest.mark.parametrize("part", ["qzeros", "scales"])
def test_a_layer_without_one_of_its_parts_is_refused(bench, part):
    def pack(name, weight):
        parts, meant = packer(4, 32)(name, weight)
        del parts[f"{name}.{part}"]
        return parts, meant

    bench.store(SETTINGS, pack)
    with pytest.raises(CheckpointError, match=rf"no tensor '.*_proj\.{part}'"):
        jm.load(bench.directory)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("scales", lambda tensor: tensor[:, 1:], r"do not fit each other.*scales' \[\d, \d+\]"),
        ("qweight", lambda tensor: tensor.reshape(-1), r"do not fit each other.*qweight' \[\d+\]"),
        ("g_idx", lambda tensor: tensor[:-1], "do not fit each other"),
        ("g_idx", lambda tensor: tensor + 1, r"has scales of 5 groups, but columns are in groups 1 to 5"),
        ("g_idx", lambda tensor: tensor - 1, r"has scales of 5 groups, but columns are in groups -1 to 3"),
    ],
)
def test_parts_that_do_not_fit_are_refused(bench, part, change, message):
    def pack(name, weight):
        parts, meant = packer(4, 32)(name, weight)
        parts[f"{name}.{part}"] = change(parts[f"{name}.{part}"])
        return parts, meant

    bench.store(SETTINGS, pack)
    with pytest.raises(CheckpointError, match=message):
        jm.load(bench.directory)


@pytest.mark.parametrize("group_size", [16, 64])
def test_a_group_size_that_does_not_fit_is_refused(bench, group_size):
    bench.store(SETTINGS | {"group_size": group_size}, packer(4, 32, with_groups=False))
    with pytest.raises(CheckpointError, match=rf"do not fit each other.*D / G = {group_size}"):
        jm.load(bench.directory)
