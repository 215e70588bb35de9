"""The TPU compiler in a process of its own: with libtpu installed jax looks for a TPU when it starts."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from jaxmodels.tpu_configs.compiler import ENVIRONMENT

# One worker compiles for all: a minute of two cores for every five families.
# The first test waits for all programs that the run asks for, one after another.
COMPILING = 2400  # seconds

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None,
    reason="the TPU compiler is not installed (pip install 'jaxmodels[aot]')",
)


# Of modules whose programs take a minute of two cores to compile.
COMPILED_IN_THE_SWEEP = [
    pytest.mark.sweep,
    pytest.mark.xdist_group("aot"),
    pytest.mark.timeout(COMPILING),
]


def run_with_compiler(*arguments, cwd=None):
    """The finished run of Python with these arguments, in an environment with the TPU compiler."""
    # No two of these programs are the same: keeping them for each other would only take time.
    environment = {**os.environ, **ENVIRONMENT, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd, env=environment, capture_output=True, text=True, timeout=COMPILING, check=False,
    )  # fmt: skip


def told_with_compiler(*arguments, cwd=None):
    """What a run that must succeed prints, a JSON value in each line."""
    done = run_with_compiler(*arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def run_aot(*arguments):
    return run_with_compiler("-m", "jaxmodels.tpu_configs.aot", *arguments)
