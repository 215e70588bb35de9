"""What the TPU compiler lets four devices of a v6e slice send each other for a decoding step.

Called with names of `mesh_models.MIXED` and mesh sizes, as ``transformer:tensor=4``; prints JSON, for each
how often each kind of collective occurs.
"""

import json
import re
import sys
from collections import Counter

import jax
import jax.numpy as jnp
from jax.experimental import topologies
from jax.sharding import NamedSharding, PartitionSpec
from mesh_models import MIXED

from jaxmodels.layers.spec import abstract_params
from jaxmodels.tpu_configs.mesh import make_mesh, mesh_sizes
from jaxmodels.tpu_configs.shardings import Placement

COLLECTIVE = re.compile(
    r" (all-reduce|all-gather|ragged-all-to-all|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)
ROWS, SLOTS = 4, 256


def placed(shapes, shardings):
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        shapes,
        shardings,
    )


def collectives(name, sizes):
    devices = topologies.get_topology_desc(platform="tpu", topology_name="v6e:2x2").devices
    placement = Placement(mesh=make_mesh(**mesh_sizes(sizes), devices=devices))
    config = placement.fitted(MIXED[name])

    def step(params, tokens, cache):
        scored, pending = config.peek(params, tokens, cache)
        return scored.logits, config.commit(pending)

    params = placed(abstract_params(config.spec(), "bfloat16"), placement.params(config))
    cache = placed(
        jax.eval_shape(lambda: config.init_cache(ROWS, SLOTS, jnp.bfloat16)),
        placement.cache(config, ROWS, SLOTS, "bfloat16"),
    )
    whole = NamedSharding(placement.mesh, PartitionSpec())
    tokens = jax.ShapeDtypeStruct((ROWS, 1), jnp.int32, sharding=whole)
    with jax.set_mesh(placement.mesh):
        program = jax.jit(step, donate_argnums=2).trace(params, tokens, cache).lower().compile()
    return Counter(COLLECTIVE.findall(program.as_text()))


if __name__ == "__main__":
    print(json.dumps({given: collectives(*given.split(":")) for given in sys.argv[1:]}))
