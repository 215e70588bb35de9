"""Compiles decoding steps with exits for a TPU; prints what each does with its cache, as JSON.

    python tests/tpu_configs/early_exit_programs.py

A program of its own because with libtpu installed jax looks for a TPU when it starts.
"""

import json
import re

import jax
import jax.numpy as jnp
from jax.sharding import SingleDeviceSharding

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, EarlyExit, driver
from jaxmodels.decoding.depth import LinearConfidence
from jaxmodels.tpu_configs.compiler import topology_device
from jaxmodels.tpu_configs.programs import Workload, abstract_arguments

TOPOLOGY = "v6e:2x2"
BLOCKS = 4
QWEN3 = {
    "model_type": "qwen3",
    "vocab_size": 1024,
    "hidden_size": 512,
    "intermediate_size": 1024,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 128,
}
MAMBA2 = {
    "model_type": "mamba2",
    "vocab_size": 1024,
    "hidden_size": 512,
    "num_hidden_layers": BLOCKS,
    "num_heads": 16,
    "head_dim": 64,
    "state_size": 128,
    "n_groups": 1,
    "expand": 2,
    "conv_kernel": 4,
    "chunk_size": 256,
    "tie_word_embeddings": True,
}
LEARNED = LinearConfidence(weight=jnp.zeros((BLOCKS, 512)), bias=jnp.zeros(BLOCKS))
STRATEGIES = {
    "plain": Autoregressive(),
    "head": EarlyExit(),
    "learned": EarlyExit(confidence=LEARNED, asked=(0, 2)),
}
ROWS, TOKENS = 8, 2048


def measured(values, strategy):
    """The conditionals of a step, the instructions that copy a part of the cache, and its memory."""
    config = jm.config_from_hf(values)
    sharding = SingleDeviceSharding(topology_device(TOPOLOGY))
    work = Workload(batch=ROWS, prompt=TOKENS, new_tokens=TOKENS)
    given = abstract_arguments(config, work, strategy, sharding)
    placed = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.asarray(leaf).dtype, sharding=sharding),
        strategy,
    )
    traced = driver.advance.trace(
        given.params, given.request, given.carry, placed, given.steps, config=config
    )
    compiled = traced.lower().compile()
    text, memory = compiled.as_text(), compiled.memory_analysis()
    leaves = [leaf for leaf in jax.tree.leaves(given.carry.cache) if leaf.size > ROWS * TOKENS]
    shapes = {",".join(map(str, leaf.shape)) for leaf in leaves}
    copies = re.findall(r"= [a-z0-9]+\[([0-9,]+)\]\S* copy\(", text)
    return {
        "conditionals": len(re.findall(r" conditional\(", text)),
        "copies": sum(shape in shapes for shape in copies),
        "temporary": memory.temp_size_in_bytes,
        "aliased": memory.alias_size_in_bytes,
        "cache": sum(leaf.size * leaf.dtype.itemsize for leaf in leaves),
    }


def main():
    models = {"qwen3": QWEN3, "mamba2": MAMBA2}
    print(
        json.dumps(
            {
                model: {name: measured(values, strategy) for name, strategy in STRATEGIES.items()}
                for model, values in models.items()
            }
        )
    )


if __name__ == "__main__":
    main()
