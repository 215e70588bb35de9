"""A decoding step with exits that a TPU compiler makes: a conditional per block, and no copy of the cache."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aot_process import COMPILING, needs_libtpu

from jaxmodels.tpu_configs.compiler import ENVIRONMENT

SCRIPT = Path(__file__).with_name("early_exit_programs.py")
BLOCKS = 4

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
@pytest.mark.parametrize("exits", ["head", "learned"])
@pytest.mark.parametrize("model", ["qwen3", "mamba2"])
def test_blocks_behind_an_exit_are_conditional_and_the_cache_stays_in_its_place(reports, model, exits):
    plain, ours = reports[model]["plain"], reports[model][exits]
    assert plain["conditionals"] == 0
    assert ours["conditionals"] == BLOCKS - 1
    assert ours["copies"] <= plain["copies"]
    assert ours["aliased"] >= ours["cache"]
    assert ours["temporary"] < ours["cache"] / 4
