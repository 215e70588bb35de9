"""A decoding step with exits that a TPU compiler makes: a conditional per block, and no copy of the cache."""

from pathlib import Path

import pytest
from aot_process import COMPILED_IN_THE_SWEEP, needs_libtpu, told_with_compiler

SCRIPT = Path(__file__).with_name("early_exit_programs.py")
BLOCKS = 4

pytestmark = COMPILED_IN_THE_SWEEP


@pytest.fixture(scope="module")
def reports():
    return told_with_compiler(SCRIPT)[-1]


@needs_libtpu
@pytest.mark.parametrize("exits", ["head", "learned"])
@pytest.mark.parametrize("model", ["qwen3", "mamba2"])
def test_blocks_behind_an_exit_are_conditional_and_the_cache_stays_in_its_place(reports, model, exits):
    plain, ours = reports[model]["plain"], reports[model][exits]
    assert plain["conditionals"] == 0
    assert ours["conditionals"] == BLOCKS - 1
    assert ours["copies"] <= plain["copies"]
    assert ours["aliased"] >= ours["cache"]
    assert ours["temporary"] < ours["cache"] / 4
