"""Compiles decoding steps for a TPU with weights in few bits; prints what each reads, as JSON.

    python tests/tpu_configs/quantized_programs.py

A program of its own because with libtpu installed jax looks for a TPU when it starts.
"""

import json

import jax
from jax.sharding import SingleDeviceSharding

import jaxmodels as jm
from jaxmodels.decoding import driver
from jaxmodels.layers.quantized.array import QuantizedArray, held_bytes
from jaxmodels.layers.quantized.quantization import QUANTIZATIONS, quantized_params
from jaxmodels.layers.spec import walk
from jaxmodels.tpu_configs.compiler import topology_device
from jaxmodels.tpu_configs.programs import Workload, abstract_arguments

TOPOLOGY = "v6e:2x2"
# Wide enough that weights, not activations, are what a step reads.
DENSE = {
    "model_type": "qwen3",
    "vocab_size": 2048,
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 128,
}
MIXTURE = {
    **DENSE,
    "model_type": "qwen3_moe",
    "num_hidden_layers": 1,
    "num_experts": 16,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 1024,
}
PROGRAMS = {
    "dense": (DENSE, (None, "int8", "int4", "fp8", "mxfp4")),
    "mixture": (MIXTURE, (None, "int8", "int4")),
}


def measured(values, quantize):
    """Bytes that one decoding step takes and reads."""
    config = jm.config_from_hf(values)
    sharding = SingleDeviceSharding(topology_device(TOPOLOGY))
    strategy = jm.decoding.Autoregressive()
    given = abstract_arguments(config, Workload(prompt=32, new_tokens=16), strategy, sharding)
    params = given.params
    if quantize is not None:
        held = jax.eval_shape(
            lambda params: quantized_params(config.spec(), params, QUANTIZATIONS[quantize]), params
        )
        params = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding), held
        )
    traced = driver.advance.trace(params, given.request, given.carry, strategy, given.steps, config=config)
    compiled = traced.lower().compile()
    return {
        "held": sum(
            leaf.nbytes if isinstance(leaf, QuantizedArray) else held_bytes(leaf.shape, leaf.dtype)
            for _, leaf in walk(params)
        ),
        "read": compiled.cost_analysis()["bytes accessed"],
        "temporary": compiled.memory_analysis().temp_size_in_bytes,
        "arguments": compiled.memory_analysis().argument_size_in_bytes,
    }


def main():
    print(
        json.dumps(
            {
                name: {str(quantize): measured(values, quantize) for quantize in formats}
                for name, (values, formats) in PROGRAMS.items()
            }
        )
    )


if __name__ == "__main__":
    main()
