"""`jaxmodels tpu compile` writes programs that `jaxmodels generate --compiled` starts from."""

import json
import zipfile

import pytest

PROMPT = "the cat"


@pytest.fixture(scope="module")
def compiled(model_dir, tmp_path_factory):
    """A directory of programs of the tiny model, for prompts of 32 tokens."""
    from typer.testing import CliRunner

    from jaxmodels.cli import app

    output = tmp_path_factory.mktemp("cli") / "programs"
    command = [
        "tpu",
        "compile",
        model_dir,
        output,
        "--prompt",
        20,
        "--program",
        "prefill",
        "--program",
        "decode",
    ]
    result = CliRunner().invoke(app, [str(one) for one in command])
    assert result.exit_code == 0, (result.output, result.exception)
    assert result.stdout.startswith(f"{output}: ")
    return output


def test_generate_starts_from_compiled_programs(run, model_dir, compiled):
    plain = run("generate", PROMPT, "--model", model_dir, "-n", 12)
    assert (
        run("generate", PROMPT, "--model", model_dir, "-n", 12, "--compiled", compiled).stdout == plain.stdout
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--no-stream"], "holds no generate program"),
        (["-n", 100], "answers of 100 tokens"),
        (["--top-k", 3], "asked for is Autoregressive(sampler=Sample("),
        (["--stop-string", "cat"], "end at stop tokens alone; leave out the stop strings"),
        (["--dtype", "bfloat16"], "in float32, and the model here is a mamba2"),
    ],
)
def test_what_they_are_not_for_is_refused(run, model_dir, compiled, arguments, told):
    result = run("generate", PROMPT, "--model", model_dir, "--compiled", compiled, *arguments, code=2)
    assert told in result.stderr


def test_a_portable_file_is_written_for_the_platforms_asked_for(run, model_dir, tmp_path):
    output = tmp_path / "programs.zip"
    run(
        "tpu", "compile", model_dir, output, "--portable", "--platform", "cuda", "--program", "prefill",
        "--dtype", "bfloat16", "--quantize", "int8",
    )  # fmt: skip
    with zipfile.ZipFile(output) as archive:
        manifest = json.loads(archive.read("manifest.json"))
        assert set(archive.namelist()) == {"manifest.json", "begin", "prefill"}
    assert manifest["platforms"] == ["cuda"]
    assert manifest["workload"]["dtype"] == "bfloat16"
    assert manifest["params"]["embed/weight/numbers"][0] == "int8"
    assert manifest["params"]["embed/weight/scales"][0] == "bfloat16"


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--slice", "v6e-9"], "the nearest are v6e-1"),
        (["--mesh", "tensor=64"], "need 64 devices"),
        (["--rules", "rules.json"], "give --mesh too"),
        (["--platform", "tpu"], "--platform is of --portable files"),
        (["--strategy", "auto"], "--strategy auto tries strategies with the weights"),
        (["--recommended"], "--recommended takes a checkpoint's settings"),
        (["--portable", "--prompt", 8, "--prompt", 16], "a portable file is for one length of prompts"),
        (["--experts", "host"], "the model has no mixture of experts"),
        (["--experts", "host", "--portable"], "--experts: portable programs have them on the device"),
        (["--quantize", "int3"], "quantize must be one of ['int8', 'int4'"),
        (["--prompt", 32, "--capacity", 40], "capacity=40 cannot hold"),
    ],
)
def test_bad_options_are_refused(run, model_dir, tmp_path, arguments, told):
    result = run("tpu", "compile", model_dir, tmp_path / "programs", *arguments, code=2)
    assert told in result.stderr
    assert not (tmp_path / "programs").exists()
