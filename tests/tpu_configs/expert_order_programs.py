"""Compiles programs of a mixture whose experts fill no tiles for a TPU; prints what they take, as JSON.

    PYTHONPATH=. python tests/tpu_configs/expert_order_programs.py

A program of its own because with libtpu installed jax looks for a TPU when it starts.
"""

import json

from jax.sharding import SingleDeviceSharding

import jaxmodels as jm
from benchmarks.tpu_decode_bytes import experts_of, least_bytes
from benchmarks.tpu_memory_traffic import program_of
from jaxmodels.artefacts.placed import on_device, on_mesh, program_traces
from jaxmodels.decoding import Autoregressive
from jaxmodels.layers.quantized.quantization import find_quantization
from jaxmodels.tpu_configs.compiler import slice_devices, topology_device
from jaxmodels.tpu_configs.mesh import make_mesh
from jaxmodels.tpu_configs.programs import Workload, abstract_arguments, trace_programs
from jaxmodels.tpu_configs.shardings import Placement
from jaxmodels.tpu_configs.slices import find_slice

TOPOLOGY = "v6e:2x2"
WORK = Workload(prompt=32, new_tokens=16, capacity=128)
# 128 experts fill whole tiles, and 960 features seven and a half; a stack has no room on the chip.
MIXTURE = {
    "model_type": "gpt_oss",
    "vocab_size": 1024,
    "hidden_size": 960,
    "intermediate_size": 960,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_local_experts": 128,
    "num_experts_per_tok": 4,
}


def taken(traced):
    """Working memory of a program, and its text."""
    compiled = traced.lower().compile()
    return {"temporary": compiled.memory_analysis().temp_size_in_bytes}, compiled.as_text()


def main():
    config, strategy = jm.config_from_hf(MIXTURE), Autoregressive()
    sharding = SingleDeviceSharding(topology_device(TOPOLOGY))
    found = {}
    traced = trace_programs(config, WORK, strategy, sharding)
    for name in ("decode", "prefill"):
        found[name], text = taken(traced[name])
        given = abstract_arguments(config, WORK, strategy, sharding)
        found[name] |= {
            "moved": program_of(text, dict(experts_of(config).values())).traffic,
            "least": least_bytes(config, given.params, given.cache),
        }
    in_few_bits = program_traces(
        config, WORK, strategy, on_device(topology_device(TOPOLOGY)), find_quantization("int8")
    )
    found["int8"], _ = taken(in_few_bits["decode"]())
    placement = Placement(mesh=make_mesh(tensor=4, devices=slice_devices(find_slice("v6e-4"))))
    places = on_mesh(placement, config, WORK, WORK.capacity)
    found["mesh"], _ = taken(program_traces(config, WORK, strategy, places)["decode"]())
    print(json.dumps(found))


if __name__ == "__main__":
    main()
