"""A decoding step that a TPU compiler makes of weights in few bits reads the small numbers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aot_process import COMPILING, needs_libtpu

from jaxmodels.tpu_configs.compiler import ENVIRONMENT

SCRIPT = Path(__file__).with_name("quantized_programs.py")
# How much of what the step of bfloat16 weights reads. The compiler counts copies into fast memory, of all
# weights alike; numbers are a half or a quarter, beside the cache, scales, and partial sums of groups.
MOST_READ = {"int8": 0.75, "int4": 0.5, "fp8": 0.75, "mxfp4": 0.5}

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
@pytest.mark.parametrize("quantize", MOST_READ)
def test_a_step_reads_the_small_numbers_alone(reports, quantize):
    few, whole = reports["dense"][quantize], reports["dense"]["None"]
    assert few["read"] <= MOST_READ[quantize] * whole["read"]


@needs_libtpu
@pytest.mark.parametrize(
    ("model", "quantize"),
    [*(("dense", name) for name in MOST_READ), ("mixture", "int8"), ("mixture", "int4")],
)
def test_weights_are_not_written_out(reports, model, quantize):
    few, whole = reports[model][quantize], reports[model]["None"]
    assert few["arguments"] < whole["arguments"] - (whole["held"] - few["held"]) * 0.9
    assert few["temporary"] <= whole["temporary"] + 0.05 * whole["held"]
