"""`jaxmodels tpu`: plans on the command line."""

import json

import pytest
from published_configs import DIRECTORY

from jaxmodels.tpu_configs.plan import compiled
from jaxmodels.tpu_configs.programs import Workload
from jaxmodels.tpu_configs.reports import ProgramReport

QWEN = DIRECTORY / "qwen3--Qwen3-8B.json"
FLUX = DIRECTORY / "diffusers" / "FLUX.1-dev" / "transformer" / "config.json"


def test_a_plan_is_told_in_a_few_lines(run):
    told = " ".join(run("tpu", "plan", QWEN, "--slice", "v5e-8").output.split())
    for part in (
        "v5e-8: 8 chips (2x4), 1 host", "tensor=8", "1 x 2048 tokens + 128 new, bfloat16",
        "of 15.75 GiB: fits", "parameters 1.91 GiB", "bound by arithmetic", "bound by memory",
    ):  # fmt: skip
        assert part in told


def test_what_does_not_fit_ends_with_status_1_and_what_to_change(run):
    told = run("tpu", "plan", QWEN, "--slice", "v5e-1", code=1).output
    assert "does not fit: " in told and "--slice v5e-4 is the smallest v5e slice that holds it" in told


def test_json_has_the_same(run):
    values = json.loads(run("tpu", "plan", QWEN, "--slice", "v6e-4", "--batch", 8, "--json").stdout)
    assert values["slice"]["name"] == "v6e-4" and values["fits"] and values["advice"] == []
    assert values["mesh"] == {"tensor": 4} and values["workload"]["batch"] == 8
    parts = ("parameters", "cache", "working", "code")
    assert values["memory"]["total"] == sum(values["memory"][part] for part in parts)
    assert values["seconds_per_token"]["most"] == values["decode"]["seconds"]
    assert values["tokens_per_second"] == 8 / values["decode"]["seconds"]


def test_weights_in_few_bits_take_less(run):
    plain, few = (
        json.loads(run("tpu", "plan", QWEN, "--slice", "v6e-1", "--json", *options).stdout)
        for options in ((), ("--quantize", "int8"))
    )
    assert few["quantize"] == "int8" and plain["quantize"] is None
    assert 0.5 < few["memory"]["parameters"] / plain["memory"]["parameters"] < 0.51
    told = run("tpu", "plan", QWEN, "--slice", "v5e-1", "--quantize", "int8").output
    assert "held as int8" in told and "fits, " in told


def test_the_denoiser_of_a_pipeline_is_planned(run):
    told = " ".join(run("tpu", "plan", FLUX, "--slice", "v6e-4", "--steps", 28).output.split())
    for part in (
        "1 x latents of 128 x 128 x 16, texts of 128 tokens, 28 steps of 2 for each image",
        "of 31.25 GiB: fits", "of the denoiser alone", "all steps at least",
    ):  # fmt: skip
        assert part in told
    values = json.loads(run("tpu", "plan", "tiny-dit", "--latents", 32, "--batch", 3, "--json").stdout)
    assert values["workload"]["side"] == 32 and values["workload"]["steps"] == 50  # the pipeline's own
    assert values["images_per_second"] == 3 / values["seconds"]


def test_a_denoiser_that_does_not_fit_ends_with_status_1(run):
    assert "--slice v5e-4 is" in run("tpu", "plan", FLUX, "--slice", "v5e-1", code=1).output


def test_denoisers_are_compared(run):
    values = json.loads(
        run("tpu", "plan", FLUX, "--compare", "--slice", "v5e-4", "--slice", "v6e-4", "--json").stdout
    )
    assert [it["slice"]["name"] for it in values["plans"]] == ["v5e-4", "v6e-4"]
    table = run("tpu", "plan", FLUX, "--compare", "--slice", "v5e-4", "--slice", "v6e-4").output
    assert "image/s" in table and "v6e-4" in table


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        ("tiny-dit", ("--quantize", "int8"), "--quantize is of language models, and tiny-dit is an image"),
        ("tiny-dit", ("--strategy", "jacobi"), "--strategy is of language models"),
        ("tiny-dit", ("--new-tokens", 8), "--new-tokens is of language models"),
        ("tiny-mamba2", ("--latents", 32), "--latents is of image models, and tiny-mamba2 is a language"),
    ],
)
def test_options_of_the_other_kind_are_refused(run, model, options, message):
    assert message in run("tpu", "plan", model, *options, code=2).stderr


def test_a_strategy_changes_the_step(run):
    told = run("tpu", "plan", QWEN, "--slice", "v6e-1", "--strategy", "jacobi", "--draft-tokens", 7).output
    assert "a step scores 8 tokens per row" in " ".join(told.split())


def test_slices_are_compared_in_a_table_and_a_chart(run, tmp_path):
    chart = tmp_path / "chart.png"
    named = ("--slice", "v5e-1", "--slice", "v5e-4", "--slice", "tpu7x-2")
    told = run("tpu", "plan", QWEN, "--compare", *named, "--plot", chart).output
    rows = [line.split()[0] for line in told.splitlines() if line.strip().startswith(("v5e", "tpu7x"))]
    assert rows == ["v5e-1", "v5e-4", "tpu7x-2"]
    assert chart.read_bytes().startswith(b"\x89PNG")


def test_all_slices_are_compared_where_none_is_named(run, tmp_path, config_values):
    (tmp_path / "config.json").write_text(json.dumps(config_values))
    values = json.loads(run("tpu", "plan", tmp_path, "--compare", "--json").stdout)
    names = [it["slice"]["name"] for it in values["plans"]]
    assert {"v4-8", "v5e-1", "v5p-8", "v6e-16", "tpu7x-2"} <= set(names) | set(values["refused"])


def test_what_the_compiler_says_follows_program_by_program(run, monkeypatch):
    """The figures are made up: compiling is tested beside `plan.compiled`."""
    sizes = dict.fromkeys(("output_bytes", "alias_bytes", "aliased_buffers", "cache_buffers"), 0)
    report = ProgramReport(
        program="decode", topology="v6e-4", workload=Workload(), argument_bytes=2**31, temp_bytes=2**30,
        param_bytes=0, cache_bytes=0, flops=3e9, bytes_accessed=5e9, generated_code_bytes=2**29,
        seconds=7.2, **sizes,
    )  # fmt: skip
    monkeypatch.setattr(compiled, "compiled_programs", lambda *given: iter([report]))
    told = run("tpu", "plan", QWEN, "--slice", "v6e-4", "--compile").output
    assert "compiled decode: 3.50 GiB per device" in told and "3 GFLOP, 5 GB accessed, in 7 s" in told
    values = json.loads(run("tpu", "plan", QWEN, "--slice", "v6e-4", "--compile", "--json").stdout)
    assert values["compiled"][0]["temp_bytes"] == 2**30


def test_rules_come_from_a_file(run, tmp_path):
    rules = tmp_path / "rules.json"
    rules.write_text('{"vocab": null}')
    plain, whole = (
        json.loads(run("tpu", "plan", QWEN, "--slice", "v5e-4", "--json", *options).stdout)
        for options in ((), ("--rules", rules))
    )
    assert whole["memory"]["parameters"] > plain["memory"]["parameters"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--slice", "v5e-7"), "slice 'v5e-7' is not known; the nearest are v5e-1, v5e-4, v5e-8"),
        (("--slice", "v5e-1", "--slice", "v5e-4"), "--slice is given more than once; give --compare too"),
        (("--plot", "x.png"), "--plot draws what --compare compares"),
        (("--mesh", "tensor=4", "--slice", "v5e-8"), "tensor=4 has 4 devices, and v5e-8 has 8"),
        (("--mesh", "heads=4", "--slice", "v5e-8"), "'heads=4' is not of the form"),
        (("--strategy", "auto"), "--strategy auto tries strategies with the weights"),
        (("--strategy", "speculative", "--draft", "tiny-qwen3"), "plan the draft model by itself"),
        (("--compare", "--plot", "chart.nonsense"), "must end in .png"),
        (("--compare", "--compile"), "--compile is for one slice"),
        (("--quantize", "int3"), "quantize must be one of ['int8', 'int4'"),
    ],
)
def test_what_cannot_be_planned_is_said(run, options, message):
    assert message in run("tpu", "plan", QWEN, *options, code=2).stderr


def test_a_rules_file_with_an_unknown_axis_is_refused(run, tmp_path):
    (tmp_path / "rules.json").write_text('{"head": "tensor"}')
    told = run("tpu", "plan", QWEN, "--rules", tmp_path / "rules.json", code=2).stderr
    assert "'head' is no logical axis" in told and "'heads' is meant" in told


def test_recipes_are_printed_or_written(run, tmp_path):
    command = ("--", "generate", "tiny-qwen3", "--mesh", "tensor=8")
    printed = run("tpu", "launch", "gcloud", "--slice", "v5e-8", *command)
    assert "jaxmodels generate tiny-qwen3 --mesh tensor=8" in printed.stdout and not printed.stderr
    run("tpu", "launch", "gcloud", "--slice", "v5e-8", "--output", tmp_path / "recipe", *command)
    assert (tmp_path / "recipe" / "launch.sh").read_text() == printed.stdout


def test_a_command_without_a_mesh_is_pointed_out(run):
    told = run("tpu", "launch", "ray", "--slice", "v5e-8", "--", "generate", "tiny-qwen3").stderr
    assert "one of the 8 devices of v5e-8 does the work" in told
