"""A decoding step that a TPU compiler makes with experts in host memory fetches single experts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aot_process import COMPILING, needs_libtpu

from jaxmodels.layers.host_memory import MEMORY_KIND
from jaxmodels.tpu_configs.compiler import ENVIRONMENT

SCRIPT = Path(__file__).with_name("host_expert_programs.py")

pytestmark = [
    pytest.mark.sweep,  # a minute of two cores
    pytest.mark.xdist_group("aot"),
    pytest.mark.timeout(COMPILING),
]


@pytest.fixture(scope="module")
def reports():
    environment = {**os.environ, **ENVIRONMENT, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    done = subprocess.run(
        [sys.executable, SCRIPT],
        env=environment,
        capture_output=True,
        text=True,
        timeout=COMPILING,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


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
