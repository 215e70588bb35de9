"""A decoding step that a TPU compiler makes with experts in host memory fetches single experts."""

import re
from pathlib import Path

import pytest
from aot_process import COMPILED_IN_THE_SWEEP, needs_libtpu, told_with_compiler

from jaxmodels.layers.host_memory import MEMORY_KIND

SCRIPT = Path(__file__).with_name("host_expert_programs.py")
FETCHES = 3  # of one expert, in few bits or not: its projections
EXPERT = FETCHES * 512 * 512 * 2  # bytes in bfloat16, of 64 experts

pytestmark = COMPILED_IN_THE_SWEEP


@pytest.fixture(scope="module")
def reports():
    return told_with_compiler(SCRIPT)[-1]


@pytest.fixture(params=["arrays", "int8", "int4", "mxfp4", "arrays-on-four", "int4-on-four"])
def both(request, reports):
    report = reports[request.param]
    return report[MEMORY_KIND], report["device"]


@needs_libtpu
def test_the_stacks_are_arguments_in_host_memory(both):
    there, here = both
    assert here["host_arguments"] == 0
    # Rows that fill up blocks of bytes, and scales that devices share.
    assert here["stacks"] <= there["host_arguments"] <= 1.05 * here["stacks"]
    assert there["arguments"] <= here["arguments"] - here["stacks"] * 0.99


@needs_libtpu
def test_a_step_has_room_for_a_few_of_the_experts(both):
    there, here = both
    assert there["temporary"] - here["temporary"] <= 4 * EXPERT
    assert there["arguments"] + there["temporary"] < here["arguments"] + here["temporary"]


@needs_libtpu
def test_a_step_reads_less_than_all_experts(reports):
    there, here = reports["arrays"][MEMORY_KIND], reports["arrays"]["device"]
    assert there["read"] <= 0.2 * here["read"]


@needs_libtpu
def test_the_next_expert_is_fetched_while_one_computes(both):
    """In the body of the loop over experts: three projections asked for, the loop over the rows of the expert
    before, and then the wait. No whole stack is copied."""
    there, _ = both
    assert [
        *["dynamic-slice-start"] * FETCHES, "while", *["dynamic-slice-done"] * FETCHES
    ] in there["schedules"]  # fmt: skip


@needs_libtpu
@pytest.mark.parametrize("name", ["arrays-kept", "int4-kept"])
def test_experts_that_come_ahead_are_fetched_while_the_mixer_computes(reports, name):
    """Two of them: their projections are asked for in front of the mixer's products and waited for behind
    them. Slots are written in place."""
    there = reports[name][MEMORY_KIND]
    fetches = 2 * FETCHES
    wanted = (
        rf"(dynamic-slice-start ){{{fetches}}}(product ){{4,}}(while )*(dynamic-slice-done ?){{{fetches}}}"
    )
    assert any(re.search(wanted, " ".join(kinds)) for kinds in there["schedules"])
    assert there["copies_of_slots"] == 0
