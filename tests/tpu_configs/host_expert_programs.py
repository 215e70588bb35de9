"""Compiles decoding steps for a TPU with experts in its own and in host memory; prints their costs as JSON.

    python tests/tpu_configs/host_expert_programs.py

A program of its own because with libtpu installed jax looks for a TPU when it starts.
"""

import json
import re

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import jaxmodels as jm
from jaxmodels.decoding import driver
from jaxmodels.expert_memory import expert_paths
from jaxmodels.layers.host_memory import MEMORY_KIND
from jaxmodels.layers.quantized.array import held_bytes
from jaxmodels.layers.spec import unflatten, walk
from jaxmodels.tpu_configs.compiler import topology_device
from jaxmodels.tpu_configs.programs import Workload, abstract_arguments

TOPOLOGY = "v6e:2x2"
MIXTURE = {
    "model_type": "qwen3_moe",
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 128,
    "num_experts": 64,
    "num_experts_per_tok": 4,
    "moe_intermediate_size": 512,
}
# In the order of a schedule: a fetch that begins, a loop, a fetch that is waited for.
STEP = re.compile(r"^\s*(?:ROOT )?%\S+ = .*?\s(dynamic-slice-start|dynamic-slice-done|while)\(")


def measured(memory):
    """Bytes that one decoding step takes with the experts there, and the order of its fetches and loops."""
    config = jm.config_from_hf(MIXTURE)
    mesh = Mesh(np.array([topology_device(TOPOLOGY)]), ("device",))
    here, there = (NamedSharding(mesh, PartitionSpec(), memory_kind=kind) for kind in ("device", memory))
    strategy = jm.decoding.Autoregressive()
    given = abstract_arguments(config, Workload(prompt=32, new_tokens=16), strategy, here)
    experts = expert_paths(config)

    def placed(path, leaf):
        sharding = there if path in experts else here
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)

    params = unflatten({path: placed(path, leaf) for path, leaf in walk(given.params)}, given.params)
    traced = driver.advance.trace(params, given.request, given.carry, strategy, given.steps, config=config)
    compiled = traced.lower().compile()
    taken = compiled.memory_analysis()
    computations = re.split(r"\n\n", compiled.as_text())
    return {
        "stacks": sum(held_bytes(leaf.shape, leaf.dtype) for path, leaf in walk(params) if path in experts),
        "arguments": taken.argument_size_in_bytes,
        "host_arguments": taken.host_argument_size_in_bytes,
        "temporary": taken.temp_size_in_bytes,
        "read": compiled.cost_analysis()["bytes accessed"],
        "schedules": [
            kinds
            for text in computations
            if "dynamic-slice-start"
            in (kinds := [match[1] for line in text.splitlines() if (match := STEP.match(line))])
        ],
    }


def main():
    print(json.dumps({memory: measured(memory) for memory in ("device", MEMORY_KIND)}))


if __name__ == "__main__":
    main()
