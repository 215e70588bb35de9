"""Experts that fill no tiles of a TPU are read as they lie, and no stack of them is laid out anew."""

from pathlib import Path

import pytest
from aot_process import COMPILED_IN_THE_SWEEP, needs_libtpu, told_with_compiler

SCRIPT = Path(__file__).with_name("expert_order_programs.py")
ROOT = SCRIPT.parents[2]
STACK = 128 * 960 * 960  # numbers of the smallest

pytestmark = COMPILED_IN_THE_SWEEP


@pytest.fixture(scope="module")
def found():
    return told_with_compiler("-c", SCRIPT.read_text("utf-8"), cwd=ROOT)[-1]


@needs_libtpu
@pytest.mark.parametrize(
    ("program", "stack"),
    [("decode", 2 * STACK), ("prefill", 2 * STACK), ("int8", STACK), ("mesh", 2 * STACK // 4)],
)
def test_no_stack_is_copied(found, program, stack):
    assert found[program]["temporary"] < stack / 2


@needs_libtpu
def test_a_step_moves_the_chosen_experts_and_no_others(found):
    assert found["decode"]["moved"] <= 1.3 * found["decode"]["least"]
