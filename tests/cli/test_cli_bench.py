"""`jaxmodels bench`: figures that agree with each other, and sizes that are checked."""

import json
import re

import pytest

import jaxmodels as jm
from jaxmodels.cli import bench
from jaxmodels.models import costs

SIZES = ("--prompt", 8, "--new", 4, "--batch", 2, "--repeats", 2)


@pytest.fixture
def config_file(tmp_path, config_values, monkeypatch):
    monkeypatch.setattr(bench, "PROBE_ROWS", 64)
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config_values))
    return file


def test_figures_agree(run, config_file, config_values):
    values = json.loads(run("bench", config_file, *SIZES, "--json").stdout)
    config = jm.config_from_hf(config_values)
    assert values["dtype"] == "float32" and values["machine"]["platform"] == "cpu"
    assert values["workload"] == {"prompt": 8, "new": 4, "batch": 2, "repeats": 2}
    prefill, decode = values["prefill_ms"] / 1e3, values["decode_ms_per_token"] / 1e3
    assert decode > 0 and 0 < prefill < values["compile_and_first_run_s"]
    assert values["prefill_tokens_per_s"] == pytest.approx(2 * 8 / prefill)
    assert values["prefill_flops_per_s"] == pytest.approx(2 * costs.prefill_flops(config, 8) / prefill)
    assert values["decode_tokens_per_s"] == pytest.approx(2 / decode)
    cache = costs.cache_bytes(config, "float32")
    expected = costs.weight_bytes(config, "float32") + 2 * cache.per_row  # a tied head, a constant state
    assert values["decode_bytes_per_step"] == expected
    fraction = expected / decode / values["read_bandwidth_bytes_per_s"]
    assert values["fraction_of_bandwidth"] == pytest.approx(fraction)


def test_the_report_has_a_machine_line(run, config_file):
    lines = run("bench", config_file, *SIZES).stdout.splitlines()
    assert "jax" in lines[0] and "CPU cores" in lines[0]
    assert "batch 2, prompt 8, new 4, median of 2" in lines[1]
    assert lines[2].startswith("prefill") and lines[3].startswith("decode")
    assert lines[4].endswith("of the measured read bandwidth")


@pytest.mark.parametrize("option", ["prompt", "new", "batch", "repeats"])
def test_sizes_are_checked_by_name(run, config_file, option):
    low = 2 if option == "new" else 1
    error = run("bench", config_file, f"--{option}", low - 1, code=2).stderr
    assert error == f"jaxmodels: error: --{option} must be at least {low}, got {low - 1}\n"


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        (("--new", 10**20), "--new must be at most 1073741824, got 100000000000000000000"),
        (("--prompt", 2**31), "--prompt must be at most 1073741824, got 2147483648"),
        (("--batch", 10**9), r"for --batch 1000000000, --prompt 512 and --new 64 needs [\d,]+ bytes"),
    ],
)
def test_sizes_that_no_machine_holds_are_named(run, config_file, sizes, message):
    error = run("bench", config_file, *sizes, code=2).stderr
    assert re.search(message, error) and error.count("\n") == 1


def test_the_probe_reads_memory_at_a_plausible_rate():
    assert 1e6 < bench.read_bandwidth(256) < 1e14
