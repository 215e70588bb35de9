"""What the TPU compiler lets devices send each other, with its own forms of writing caches and of experts."""

import functools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from aot_process import needs_libtpu

from jaxmodels.tpu_configs.compiler import ENVIRONMENT

PROCESS = Path(__file__).parents[1] / "mesh_aot_process.py"
# One sum for the embedding, for each mixer and feed-forward, and for what else layers add up.
SUMS = {"transformer:tensor=4": 1 + 8 + 1, "recurrent:tensor=4": 1 + 12 + 3}


@functools.cache
def compiled():
    path = os.pathsep.join(map(str, (PROCESS.parent, PROCESS.parents[1], os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, **ENVIRONMENT, "PYTHONPATH": path, "JAX_ENABLE_COMPILATION_CACHE": "false"}
    return subprocess.run(
        [sys.executable, PROCESS, *SUMS, "experts:expert=4"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def counts(name):
    assert not compiled().returncode, compiled().stderr[-3000:]
    return json.loads(compiled().stdout.splitlines()[-1])[name]


@needs_libtpu
@pytest.mark.sweep
@pytest.mark.parametrize("name", SUMS)
def test_layers_that_devices_share_send_sums_alone(name):
    assert counts(name) == {"all-reduce": SUMS[name]}


@needs_libtpu
@pytest.mark.sweep
def test_experts_are_reached_by_one_exchange_each_way():
    found = counts("experts:expert=4")
    assert found.pop("all-gather") <= 2  # what each layer's router chose, with what weights
    assert found == {"ragged-all-to-all": 2 * 2}
