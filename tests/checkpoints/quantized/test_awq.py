"""Checkpoints of AWQ, packed here as AutoAWQ's `WQLinear_GEMM.from_linear` does, one number after another."""

import numpy as np
import pytest
import torch
from quantized_checkpoints import assert_reads

import jaxmodels as jm
from jaxmodels.checkpoints.errors import CheckpointError

SETTINGS = {"quant_method": "awq", "bits": 4, "group_size": 32, "zero_point": True, "version": "gemm"}


def pack_columns(numbers):
    """[R, C] to [R, C / 8]: from the lowest bits on, a word holds columns 0, 2, 4, 6, 1, 3, 5, 7 of eight."""
    words = np.zeros((numbers.shape[0], numbers.shape[1] // 8), np.uint32)
    for word in range(words.shape[1]):
        for place, column in enumerate([0, 2, 4, 6, 1, 3, 5, 7]):
            words[:, word] |= numbers[:, 8 * word + column].astype(np.uint32) << np.uint32(4 * place)
    return torch.tensor(words.view(np.int32))


def packer(group_size):
    rng = np.random.default_rng(0)

    def pack(name, weight):
        outputs, inputs = weight.shape
        size = inputs if group_size == -1 else group_size
        numbers = rng.integers(0, 16, (inputs, outputs))
        zeros = rng.integers(0, 16, (inputs // size, outputs))
        scales = rng.uniform(0.001, 0.02, zeros.shape).astype(np.float16)
        meant = (numbers - zeros.repeat(size, axis=0)) * scales.repeat(size, axis=0).astype(np.float32)
        parts = {
            f"{name}.qweight": pack_columns(numbers),
            f"{name}.qzeros": pack_columns(zeros),
            f"{name}.scales": torch.tensor(scales),
        }
        return parts, torch.tensor(meant.T.copy()).half()

    return pack


@pytest.mark.parametrize("group_size", [32, -1])
def test_weights_are_those_that_were_packed(bench, group_size):
    meant = bench.store(SETTINGS | {"group_size": group_size}, packer(group_size))
    assert_reads(bench.directory, meant)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"version": "gemv"}, "version 'gemv'.*expected 'gemm'"),
        ({"bits": 8}, "bits is 8; expected 4"),
        ({"zero_point": False}, "zero_point False"),
    ],
)
def test_settings_that_are_not_read_are_refused(bench, settings, message):
    bench.store(SETTINGS | settings, packer(32))
    with pytest.raises(CheckpointError, match=rf"config\.json: key 'quantization_config'.*'awq': {message}"):
        jm.load(bench.directory)


def test_a_group_size_that_does_not_fit_is_refused(bench):
    bench.store(SETTINGS | {"group_size": 64}, packer(32))
    with pytest.raises(CheckpointError, match=r"do not fit each other.*D / G = 64"):
        jm.load(bench.directory)
