"""Compiles decoding steps for TPUs with experts in their own and in host memory; prints their costs as JSON.

    python tests/tpu_configs/host_expert_programs.py

A program of its own because with libtpu installed jax looks for a TPU when it starts.
"""

import dataclasses
import functools
import json
import re

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec

import jaxmodels as jm
from jaxmodels.expert_memory import abstract_in_host, expert_paths, fetching
from jaxmodels.layers.host_memory import MEMORY_KIND
from jaxmodels.layers.quantized.array import held_bytes
from jaxmodels.layers.quantized.quantization import QUANTIZATIONS, quantized_params
from jaxmodels.layers.spec import abstract_params, unflatten, walk
from jaxmodels.models.cache import with_kept
from jaxmodels.tpu_configs.mesh import make_mesh
from jaxmodels.tpu_configs.shardings import Placement, sharding_of

TOPOLOGY = "v6e:2x2"
ROWS, SLOTS = 4, 256
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
# Formats of weights, the sizes of meshes, and how many experts are kept and fetched ahead.
PROGRAMS = {
    "arrays": (None, {}, {}),
    "int8": ("int8", {}, {}),
    "int4": ("int4", {}, {}),
    "mxfp4": ("mxfp4", {}, {}),
    "arrays-on-four": (None, {"expert": 2, "tensor": 2}, {}),
    "int4-on-four": ("int4", {"expert": 2, "tensor": 2}, {}),
    "arrays-kept": (None, {}, {"kept": 8, "ahead": 2}),
    "int4-kept": ("int4", {}, {"kept": 8, "ahead": 2}),
}
# In the order of a schedule: a fetch that begins, a loop, a fetch that is waited for, or a matrix product.
STEP = re.compile(
    r"^\s*(?:ROOT )?%\S+ = .*?\s(?:(dynamic-slice-start|dynamic-slice-done|while)\("
    r"|fusion\(.*kind=(kOutput).*dot_general)"
)


def abstract(config, placement, quantize, memory):
    """The parameters as they are held with the experts in this memory."""
    params = abstract_params(config.spec(), "bfloat16")
    if quantize is not None:
        few = functools.partial(quantized_params, config.spec(), quantization=QUANTIZATIONS[quantize])
        params = jax.eval_shape(few, params)
    places = dict(walk(placement.params(config)))
    hosted = expert_paths(config) if memory == MEMORY_KIND else ()

    def placed(path, leaf):
        if path in hosted:
            return abstract_in_host(leaf, places[path])
        return with_places(leaf, sharding_of(leaf, places[path]))

    return unflatten({path: placed(path, leaf) for path, leaf in walk(params)}, params)


def with_places(tree, places):
    if isinstance(places, NamedSharding):
        places = jax.tree.map(lambda leaf: places, tree)
    return jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), tree, places
    )


def measured(memory, quantize, sizes, kept):
    """Bytes that one decoding step takes of each device with the experts there, and the order of its fetches
    and loops."""
    devices = topologies.get_topology_desc(platform="tpu", topology_name=TOPOLOGY).devices
    devices = devices[: 4 if sizes else 1]
    placement = Placement(mesh=make_mesh(**sizes, devices=devices))
    config, rows = fetching(jm.config_from_hf(MIXTURE), jm.HostExperts(**kept)), ROWS if sizes else 1

    def step(params, tokens, cache):
        scored, pending = config.peek(params, tokens, cache)
        return scored.logits, config.commit(pending)

    params = abstract(config, placement, quantize, memory)
    cache = jax.eval_shape(lambda: config.init_cache(rows, SLOTS, jnp.bfloat16))
    whole = NamedSharding(placement.mesh, PartitionSpec())
    cache = with_places(cache, placement.cache(config, rows, SLOTS, "bfloat16"))
    beside = jax.eval_shape(functools.partial(with_kept, config), params, cache).kept
    given = (
        params,
        jax.ShapeDtypeStruct((rows, 1), jnp.int32, sharding=whole),
        dataclasses.replace(cache, kept=with_places(beside, whole)),
    )
    with jax.set_mesh(placement.mesh):
        compiled = jax.jit(step, donate_argnums=2).trace(*given).lower().compile()
    taken = compiled.memory_analysis()
    hosted, text = expert_paths(config), compiled.as_text()
    slots = [leaf.shape for one in beside for leaf in jax.tree.leaves(one.stacks)]
    return {
        "stacks": sum(
            held_bytes(part.sharding.shard_shape(part.shape), part.dtype)
            for path, leaf in walk(abstract(config, placement, quantize, "device"))
            if path in hosted
            for part in jax.tree.leaves(leaf)
        ),
        "arguments": taken.argument_size_in_bytes,
        "host_arguments": taken.host_argument_size_in_bytes,
        "temporary": taken.temp_size_in_bytes,
        "read": compiled.cost_analysis()["bytes accessed"],
        "copies_of_slots": sum(
            len(re.findall(rf"\[{','.join(map(str, shape))}\]\S* copy\(", text)) for shape in set(slots)
        ),
        "schedules": [
            kinds
            for part in re.split(r"\n\n", text)
            if "dynamic-slice-start"
            in (kinds := [match[1] or "product" for line in part.splitlines() if (match := STEP.match(line))])
        ],
    }


def main():
    print(
        json.dumps(
            {
                name: {memory: measured(memory, *program) for memory in ("device", MEMORY_KIND)}
                for name, program in PROGRAMS.items()
            }
        )
    )


if __name__ == "__main__":
    main()
