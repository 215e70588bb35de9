"""Compiled programs of a model that is spread over devices: virtual ones here, and a TPU slice that is not
there. Each in a process of its own, as what JAX sees of devices is settled at its start."""

import json
import os
import subprocess
import sys

import pytest
from aot_process import needs_libtpu
from tpu_model_configs import CONFIGS

from jaxmodels.tpu_configs.compiler import ENVIRONMENT

COMMON = """
import json, sys
import jaxmodels as jm
from jaxmodels.artefacts.compiled import compile_programs, with_programs
from jaxmodels.tpu_configs.mesh import make_mesh
from jaxmodels.tpu_configs.programs import Workload
from jaxmodels.tpu_configs.shardings import Placement

directory, values = sys.argv[1], json.loads(sys.argv[2])
model = jm.init(jm.config_from_hf(values), seed=2)
sizes = [Workload(batch=2, prompt=20, new_tokens=8, dtype="float32")]

def compile_for(mesh, programs):
    return compile_programs(directory, model.config, sizes, jm.decoding.Autoregressive(), programs=programs,
                            placement=Placement(mesh=mesh))

def refusal(of):
    try:
        with_programs(of, directory)
    except ValueError as error:
        return str(error)
"""
HERE = """
mesh = make_mesh(tensor=2, data=2)
compile_for(mesh, ("generate",))
prompts = [[5, 4, 3], [7]]
ready = with_programs(model.on_mesh(mesh), directory)
print(json.dumps({
    "tokens": ready.generate(prompts, 8, stop_tokens=()).tokens.tolist(),
    "expected": model.generate(prompts, 8, stop_tokens=()).tokens.tolist(),
    "one device": refusal(model),
    "another mesh": refusal(model.on_mesh(make_mesh(tensor=2))),
}))
"""
# From the mesh that settles them to one with more devices than there are heads of keys and values, to a
# single device, and through files.
MOVED = """
import jax
from jaxmodels.artefacts.histories import load_history, save_history
from jaxmodels.decoding.histories import moved

prompts = [[5, 4, 3, 9, 8], [7, 2]]
first, second = model.on_mesh(make_mesh(tensor=2, data=2)), model.on_mesh(make_mesh(tensor=4))
prefilled = first.prefill(prompts)
wider = moved(prefilled, first.config, second.config, second.placement)
one = moved(wider, second.config, model.config)
save_history(one, model, directory)
save_history(prefilled, first, directory + "-of-the-first")
back = load_history(directory + "-of-the-first", first)
print(json.dumps({
    "expected": model.generate(prompts, 8, stop_tokens=()).tokens.tolist(),
    "found": [by.generate(prompts, 8, stop_tokens=(), history=it).tokens.tolist() for by, it in (
        (first, prefilled), (second, wider), (model, one), (model, load_history(directory, model)),
        (first, back),
    )],
    "keys": [[leaf.shape for leaf in jax.tree.leaves(it.cache.layers[1]) if leaf.ndim == 4][0]
             for it in (prefilled, wider, one)],
}))
"""
SLICE = """
from jaxmodels.tpu_configs.compiler import slice_devices, without_tpu
from jaxmodels.tpu_configs.slices import find_slice

without_tpu()
mesh = make_mesh(tensor=2, data=2, devices=slice_devices(find_slice("v6e-4")))
manifest = compile_for(mesh, ("prefill", "decode"))
print(json.dumps({"device": manifest.device, "versions": dict(manifest.versions), "here": refusal(model)}))
"""


def run(script, directory, **environment):
    done = subprocess.run(
        [sys.executable, "-c", COMMON + script, directory, json.dumps(CONFIGS["bamba"])],
        env={**os.environ, **environment}, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.sweep
def test_programs_for_a_mesh_generate_the_same_and_are_for_no_other(tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    found = run(HERE, tmp_path / "programs", XLA_FLAGS=flags)
    assert found["tokens"] == found["expected"]
    assert "compiled for count 4, and here it is 1" in found["one device"]
    assert "compiled for count 4, and here it is 2" in found["another mesh"]


@pytest.mark.sweep
def test_histories_move_between_meshes_devices_and_files(tmp_path):
    flags = os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=4"
    found = run(MOVED, tmp_path / "history", XLA_FLAGS=flags)
    assert found["found"] == [found["expected"]] * 5
    heads = [shape[1] for shape in found["keys"]]
    assert heads == [2, 4, 2]


@pytest.mark.sweep
@needs_libtpu
def test_programs_for_a_slice_are_written_without_it_and_refused_here(tmp_path):
    found = run(SLICE, tmp_path / "programs", **ENVIRONMENT)
    assert found["device"]["kind"] == "TPU v6 lite"
    assert found["device"]["mesh"] == {"data": 2, "tensor": 2}
    assert "libtpu" in found["versions"]
    assert len(list((tmp_path / "programs").glob("*.executable"))) == 4
    assert "compiled for platform tpu, and here it is cpu" in found["here"]
