"""The TPU compiler in a process of its own: with libtpu installed jax looks for a TPU when it starts."""

import importlib.util
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


def run_aot(*arguments):
    # No two of these programs are the same: keeping them for each other would only take time.
    environment = {**os.environ, **ENVIRONMENT, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    command = [sys.executable, "-m", "jaxmodels.tpu_configs.aot", *map(str, arguments)]
    return subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=COMPILING, check=False
    )
