"""The TPU compiler is found and its version checked; it knows every slice, in a process of its own."""

import importlib.metadata
import importlib.util
import json
import os
import subprocess
import sys

import pytest
from aot_process import needs_libtpu

from jaxmodels.tpu_configs import compiler
from jaxmodels.tpu_configs.slices import SLICES

LIST_DEVICES = """
import json
from jaxmodels.tpu_configs.compiler import slice_devices
from jaxmodels.tpu_configs.slices import SLICES
found = {name: slice_devices(it) for name, it in SLICES.items()}
print(json.dumps({
    name: [len(devices), len({device.process_index for device in devices})]
    for name, devices in found.items()
}))
"""


@needs_libtpu
def test_the_compiler_knows_every_slice_with_its_devices_and_hosts():
    done = subprocess.run(
        [sys.executable, "-c", LIST_DEVICES], env={**os.environ, **compiler.ENVIRONMENT},
        capture_output=True, text=True, timeout=300, check=True,
    )  # fmt: skip
    listed = json.loads(done.stdout.splitlines()[-1])
    assert listed == {name: [it.devices, it.hosts] for name, it in SLICES.items()}


@pytest.fixture
def versions(monkeypatch):
    """Sets what is installed: libtpu's version, and what jax asks of it."""

    def install(libtpu, wanted):
        installed = {"libtpu": libtpu, "jax": "0.10.2"}
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
        monkeypatch.setattr(importlib.metadata, "version", installed.__getitem__)
        monkeypatch.setattr(importlib.metadata, "requires", lambda name: wanted)

    return install


def test_another_libtpu_than_jax_is_made_for_is_refused_with_both_versions(versions):
    versions("0.0.50", ["scipy>=1.1", 'libtpu==0.0.42.*; extra == "tpu"'])
    with pytest.raises(
        compiler.AotError, match=r"libtpu 0\.0\.50 .* jax 0\.10\.2 .* libtpu==0\.0\.42\.\*.* 'jax\[tpu\]==0"
    ):
        compiler.topology_device("v5e:2x2")


@pytest.mark.parametrize(
    ("libtpu", "wanted"),
    [
        ("0.0.42.1", ['libtpu==0.0.42.*; extra == "tpu"']),
        ("0.0.50.dev20260101", ['libtpu==0.0.50.*; extra == "tpu"']),
        ("9.9", ["scipy>=1.1"]),
        ("9.9", None),
    ],
)
def test_the_libtpu_that_jax_asks_for_is_taken(versions, libtpu, wanted):
    versions(libtpu, wanted)
    compiler.check_compiler()


def test_a_missing_compiler_names_the_extra(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(compiler.AotError, match=r"pip install 'jaxmodels\[aot\]'"):
        compiler.topology_device("v5e:2x2")
