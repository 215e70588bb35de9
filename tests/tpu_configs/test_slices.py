"""Slices by name, and what they are made of."""

import pytest

from jaxmodels.tpu_configs.slices import SLICES, find_slice, larger_slices
from jaxmodels.tpu_configs.slices.slice import GIB


@pytest.mark.parametrize(
    ("name", "chips", "devices", "hosts", "memory"),
    [
        ("v4-8", 4, 4, 1, 32),
        ("v5e-8", 8, 8, 1, 16),
        ("v5e-16", 16, 16, 4, 16),
        ("v5p-8", 4, 4, 1, 96),
        ("v6e-1", 1, 1, 1, 32),
        ("tpu7x-8", 4, 8, 1, 192),
    ],
)
def test_a_slice_counts_as_its_maker_does(name, chips, devices, hosts, memory):
    found = find_slice(name)
    assert (found.chips, found.devices, found.hosts) == (chips, devices, hosts)
    assert found.chip.hbm_bytes == memory * GIB
    assert found.chip.usable_bytes * found.chip.devices < found.chip.hbm_bytes


@pytest.mark.parametrize(
    ("spelled", "name"), [("v5litepod-8", "v5e-8"), ("V6E-4", "v6e-4"), ("7x-8", "tpu7x-8")]
)
def test_other_spellings(spelled, name):
    assert find_slice(spelled) is SLICES[name]


@pytest.mark.parametrize(
    ("name", "near"),
    [("v5e-7", "v5e-1, v5e-4, v5e-8"), ("v6-8", "v6e-8"), ("v5p8", "v5p-8"), ("cluster", "v4-8, v4-16")],
)
def test_an_unknown_slice_lists_the_nearest(name, near):
    with pytest.raises(ValueError, match=f"slice '{name}' is not known; the nearest are .*{near}"):
        find_slice(name)


def test_larger_slices_are_of_the_same_generation_in_order():
    assert [it.name for it in larger_slices(SLICES["v4-16"])] == ["v4-32", "v4-64", "v4-128"]


def test_an_unknown_dtype_is_multiplied_as_bfloat16():
    chip = SLICES["v5e-1"].chip
    assert chip.peak("int8") > chip.peak("bfloat16") == chip.peak("float8_e4m3fn") == chip.peak("float32")
