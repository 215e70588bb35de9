"""The command line as a whole: help, version, errors, and what it does not import."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import jaxmodels

COMMANDS = ("generate", "fill-mask", "convert", "inspect", "bench", "train")


def test_help_names_every_command(run):
    out = run("--help").stdout
    assert all(command in out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(run, command):
    assert f"Usage: jaxmodels {command}" in " ".join(run(command, "--help").stdout.split())


def test_version(run):
    assert run("--version").stdout == f"jaxmodels {jaxmodels.__version__}\n"


def test_help_imports_no_jax():
    """The package itself is stood in for: what its `__init__` imports is not the command line's doing."""
    program = (
        "import sys, types\n"
        "package = types.ModuleType('jaxmodels')\n"
        f"package.__path__ = [{str(Path(jaxmodels.__file__).parent)!r}]\n"
        "sys.modules['jaxmodels'] = package\n"
        "from jaxmodels.cli import main\n"
        "sys.argv = ['jaxmodels', '--help']\n"
        "try:\n    main()\nexcept SystemExit as ended:\n    assert ended.code == 0\n"
        "heavy = {'jax', 'numpy', 'flax', 'tokenizers', 'huggingface_hub'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_an_error_is_one_line_and_exit_code_2(run):
    result = run("inspect", "./nowhere", code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("jaxmodels: error: './nowhere' is no model")
    assert result.stderr.count("\n") == 1


def test_debug_lets_the_exception_through(run, monkeypatch):
    assert isinstance(run("--debug", "inspect", "./nowhere", code=1).exception, jaxmodels.CheckpointError)
    monkeypatch.setenv("JAXMODELS_DEBUG", "1")
    assert isinstance(run("inspect", "./nowhere", code=1).exception, jaxmodels.CheckpointError)


def test_the_module_is_the_command():
    done = subprocess.run(
        [sys.executable, "-m", "jaxmodels.cli", "generate", "x", "--logprobs", "1"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr == "jaxmodels: error: --logprobs needs --json, which prints them\n"


def test_errors_of_any_kind_are_one_line(run, monkeypatch):
    for error, message in (
        (TypeError("what\nis this"), "unexpected TypeError: what is this; --debug shows where"),
        (MemoryError(), "out of memory: the system gave no more; try fewer rows"),
        (
            RuntimeError("RESOURCE_EXHAUSTED: 9 bytes"),
            "out of memory: RESOURCE_EXHAUSTED: 9 bytes; try fewer",
        ),
    ):

        def fail(*_, error=error, **__):
            raise error

        monkeypatch.setattr("jaxmodels.cli.common.read_config", fail)
        result = run("inspect", "tiny-mamba2", code=2)
        assert result.stderr.startswith(f"jaxmodels: error: {message}")
        assert result.stderr.count("\n") == 1
        assert isinstance(run("--debug", "inspect", "tiny-mamba2", code=1).exception, type(error))


def command(arguments, **options):
    call = [sys.executable, "-m", "jaxmodels.cli", *arguments]
    return subprocess.run(call, stderr=subprocess.PIPE, check=False, **options)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
def test_output_that_cannot_be_written():
    with open("/dev/full", "w") as full:
        done = command(["--help"], stdout=full)
    assert done.returncode == 2
    assert b"standard output cannot be written: [Errno 28]" in done.stderr and b"Traceback" not in done.stderr


def test_closed_output():
    """The reader went away, or there never was one."""
    reader, writer = os.pipe()
    os.close(reader)
    done = command(["inspect", "tiny-mamba2", "--json"], stdout=writer)
    os.close(writer)
    assert b"Traceback" not in done.stderr and b"Exception ignored" not in done.stderr
    done = command(["inspect", "tiny-mamba2", "--json"], preexec_fn=lambda: os.close(1))
    assert (done.returncode, done.stderr) == (0, b"")


def test_arguments_that_are_no_characters():
    done = command(["inspect", b"./caf\xe9"], stdout=subprocess.PIPE)
    assert done.returncode == 2
    assert done.stderr.startswith(b"jaxmodels: error: ") and b"Traceback" not in done.stderr
