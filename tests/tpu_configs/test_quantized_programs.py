"""A decoding step that a TPU compiler makes of weights in few bits reads the small numbers."""

from pathlib import Path

import pytest
from aot_process import COMPILED_IN_THE_SWEEP, needs_libtpu, told_with_compiler

SCRIPT = Path(__file__).with_name("quantized_programs.py")
# How much of what the step of bfloat16 weights reads. The compiler counts copies into fast memory, of all
# weights alike; numbers are a half or a quarter, beside the cache, scales, and partial sums of groups.
MOST_READ = {"int8": 0.75, "int4": 0.5, "fp8": 0.75, "mxfp4": 0.5}

pytestmark = COMPILED_IN_THE_SWEEP


@pytest.fixture(scope="module")
def reports():
    return told_with_compiler(SCRIPT)[-1]


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
