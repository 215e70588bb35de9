"""What the TPU compiler makes of the forms that accelerators get, in a process of its own."""

import json
from pathlib import Path

import pytest
from aot_process import needs_libtpu, run_with_compiler

from benchmarks.tpu_programs import estimated_cycles

ROOT = Path(__file__).resolve().parents[2]


def compiled_in_subprocess(script, *arguments):
    """Runs a module or a script with the TPU compiler; its output."""
    done = run_with_compiler(*script, *arguments, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


ONE_ROW = """
import jax, jax.numpy as jnp
from benchmarks.tpu_programs import TOPOLOGY, Shapes, examine
from jaxmodels.layers.linear import linear, product
from jaxmodels.tpu_configs.compiler import topology_device
on = Shapes(jax.sharding.SingleDeviceSharding(topology_device(TOPOLOGY)))
for form in (linear, product):
    one, two = (examine(on.traced(form, on.array(rows, 1024), on.array(4096, 1024))) for rows in (1, 2))
    print(one.vector_products, two.vector_products, one.cycles, two.cycles)
"""


@needs_libtpu
def test_one_row_is_multiplied_in_the_matrix_unit_and_costs_no_more_than_two():
    ours, plain = (
        [int(word) for word in line.split()] for line in compiled_in_subprocess(["-c", ONE_ROW]).splitlines()
    )
    assert ours[:2] == [0, 0] and plain[:2] == [1, 0]
    padding = 4000  # writing the padded row, and taking it out of the result
    assert ours[2] <= ours[3] + padding
    assert plain[2] > 2 * plain[3]


CACHE_WRITES = """
import dataclasses, jax, jax.numpy as jnp
from benchmarks.tpu_programs import TOPOLOGY, Shapes, examine
from jaxmodels.layers.attention import Attention
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.spec import abstract_params, init_state
from jaxmodels.layers.window import Window, peek
from jaxmodels.tpu_configs.compiler import topology_device
on = Shapes(jax.sharding.SingleDeviceSharding(topology_device(TOPOLOGY)))
full = Attention(d_model=128, num_heads=2, num_kv_heads=2, head_dim=128, rope=Rope(rotary_dim=128))
ring = dataclasses.replace(full, sliding_window=64, cache=RingCache(longest_peek=8))
rows = 8

def program(layer, size, along_a_path):
    def run(params, x, state, start, n, path):
        positions, valid = start[:, None] + jnp.arange(size), jnp.full_like(start, size)
        window = Window(start=start, positions=positions, valid=valid)
        y, pending = peek(layer, params, x, state, window)
        return y, layer.commit(pending, n, path) if along_a_path else layer.commit(pending)

    def on_device(tree):
        return jax.tree.map(lambda leaf: on.array(*leaf.shape, dtype=leaf.dtype), tree)

    state = jax.eval_shape(lambda: init_state(layer, rows, 512, jnp.bfloat16))
    number, path = on.array(rows, dtype=jnp.int32), on.array(rows, 2, dtype=jnp.int32)
    params = on_device(abstract_params(layer.spec(), "bfloat16"))
    x = on.array(rows, size, 128)
    return jax.jit(run, donate_argnums=2).trace(params, x, on_device(state), number, number, path)

for layer, size, along_a_path in ((full, 1, False), (full, 4, True), (ring, 1, False), (ring, 4, True)):
    print(examine(program(layer, size, along_a_path)).loops)
"""


@needs_libtpu
def test_caches_are_written_without_a_loop_over_rows():
    """A short cache is read in one pass, so that a window of eight rows needs no loop at all."""
    assert compiled_in_subprocess(["-c", CACHE_WRITES]).split() == ["0"] * 4


@needs_libtpu
@pytest.mark.sweep
def test_every_mended_finding_is_mended_in_the_compiled_program(tmp_path):
    compiled_in_subprocess(["-m", "benchmarks.tpu_programs"], "--quick", "--results", tmp_path)
    targets = json.loads((tmp_path / "tpu_programs.json").read_text())["targets"]
    assert len(targets) == 6
    assert [it["what"] for it in targets if not it["is_met"]] == []


PREFILL = """
import jaxmodels as jm
from jax.sharding import SingleDeviceSharding
from benchmarks.tpu_programs import MAMBA2_130M, TOPOLOGY, examine
from jaxmodels.tpu_configs.compiler import topology_device
from jaxmodels.tpu_configs.programs import Workload, trace_programs
config = jm.config_from_hf({**MAMBA2_130M, "num_hidden_layers": 1})
sharding = SingleDeviceSharding(topology_device(TOPOLOGY))
print(examine(trace_programs(config, Workload(prompt=2048), sharding=sharding)["prefill"]).temp_bytes)
"""


@needs_libtpu
@pytest.mark.sweep
def test_prefill_of_a_state_space_layer_holds_no_float32_array_of_its_width():
    (taken,) = compiled_in_subprocess(["-c", PREFILL]).split()
    assert int(taken) < 2048 * 1536 * 4


PROGRAM = """HloModule jit_f, is_scheduled=true

%wide.condition (arg: (s32[], f32[8])) -> pred[] {
  %limit = s32[]{:T(128)} constant(5)
  ROOT %compare = pred[] compare(%index, %limit), direction=LT
}

%data.condition (arg: (s32[], f32[8])) -> pred[] {
  ROOT %compare.1 = pred[] compare(%index.1, %end), direction=LT
}

%inner (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  ROOT %add = f32[8] fusion(%x), backend_config={"estimated_cycles":"7"}
}

%outer (arg: (s32[], f32[8])) -> (s32[], f32[8]) {
  %loop = (s32[], f32[8]) while(%t), condition=%data.condition, body=%inner
  %sum = f32[8] fusion(%y), backend_config={"estimated_cycles":"100"}
}

%taken () -> f32[8] {
  ROOT %made = f32[8] fusion(), backend_config={"estimated_cycles":"1000"}
}

ENTRY %main (x: f32[8]) -> f32[8] {
  %first = f32[8] fusion(%x), backend_config={"estimated_cycles":"10000"}
  %called = f32[8] call(), to_apply=%taken
  %loop.1 = (s32[], f32[8]) while(%t), condition=%wide.condition, body=%outer
}
"""


def test_estimates_are_multiplied_by_the_trips_of_loops():
    assert estimated_cycles(PROGRAM, trips=3) == 10000 + 1000 + 5 * (100 + 3 * 7)
