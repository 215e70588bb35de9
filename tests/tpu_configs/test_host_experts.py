"""A decoding step that a TPU compiler makes with experts in host memory fetches single experts."""

from pathlib import Path

import pytest
from aot_process import COMPILED_IN_THE_SWEEP, needs_libtpu, told_with_compiler

from jaxmodels.layers.host_memory import MEMORY_KIND

SCRIPT = Path(__file__).with_name("host_expert_programs.py")

pytestmark = COMPILED_IN_THE_SWEEP


@pytest.fixture(scope="module")
def reports():
    return told_with_compiler(SCRIPT)[-1]


@needs_libtpu
def test_the_stacks_are_arguments_in_host_memory(reports):
    there, here = reports[MEMORY_KIND], reports["device"]
    assert here["host_arguments"] == 0 and there["host_arguments"] == there["stacks"]
    assert there["arguments"] <= here["arguments"] - here["stacks"] * 0.99


@needs_libtpu
def test_a_step_has_room_for_a_few_of_the_64_experts(reports):
    there, here = reports[MEMORY_KIND], reports["device"]
    assert there["temporary"] - here["temporary"] <= 5 * there["stacks"] / 64
    assert there["read"] <= 0.5 * here["read"]


@needs_libtpu
def test_the_next_expert_is_fetched_while_one_computes(reports):
    """In the body of the loop over experts: three projections asked for, the loop over the rows of the expert
    before, and then the wait."""
    assert [*["dynamic-slice-start"] * 3, "while", *["dynamic-slice-done"] * 3] in reports[MEMORY_KIND][
        "schedules"
    ]
