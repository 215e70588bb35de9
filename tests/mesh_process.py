"""Models spread over eight devices beside the same on one, in a process that has eight.

Called with names of `CHECKS`; prints JSON, for each what its function gives.
"""

import json
import os
import re
import sys
from dataclasses import replace

# On a busy machine it may take long until the threads of all devices have come to a sum.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"
)

import jax
import jax.numpy as jnp
import numpy as np
from mesh_models import DECODERS, FILLING, MIXED, VOCAB
from model_helpers import random_params

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, MaskedDiffusion, Sample, Speculative, driver
from jaxmodels.decoding.generation import plan
from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks
from jaxmodels.decoding.prompts import encode_prompts
from jaxmodels.decoding.speculative import Draft
from jaxmodels.model import _forward
from jaxmodels.tpu_configs.mesh import make_mesh

# Programs of several devices that run at the same time can block each other on CPU.
jax.config.update("jax_cpu_enable_async_dispatch", False)

COLLECTIVE = re.compile(
    r"= (.*?) (all-gather|all-reduce|collective-permute|all-to-all|reduce-scatter)(?:-start)?\("
)
SHAPE = re.compile(r"\w+\[([\d,]*)\]")
ROWS, NEW = 2, 20


def collectives(program):
    """What a program sends between devices: pairs of an operation and the shapes of its results."""
    found = COLLECTIVE.findall(program.as_text())
    return [
        [name, [[int(n) for n in shape.split(",") if n] for shape in SHAPE.findall(results)]]
        for results, name in found
    ]


def tokens(rows=ROWS, size=9):
    return np.random.default_rng(0).integers(VOCAB, size=(rows, size)).astype(np.int32)


def on_one(config):
    return jm.Model(config=config, params=random_params(config.spec()))


def error(got, expected):
    return float(np.abs(np.asarray(got) - np.asarray(expected)).max() / np.abs(np.asarray(expected)).max())


def forward(config, rows=ROWS, **sizes):
    """The difference of logits, relative to the largest, and what is sent for them."""
    one, mesh = on_one(config), make_mesh(**sizes)
    many = one.on_mesh(mesh)
    given = tokens(rows)
    with jax.set_mesh(mesh):
        program = _forward.lower(many.params, jnp.asarray(given), config=many.config).compile()
    return {"error": error(many(given), one(given)), "collectives": collectives(program)}


def steps(config, rows=ROWS, **sizes):
    """What one decoding step sends, and how the cache lies before and after the prefill."""
    model, strategy = on_one(config).on_mesh(make_mesh(**sizes)), Autoregressive()
    ready = plan(
        model.config,
        model.params,
        encode_prompts(tokens(rows), None, VOCAB),
        strategy,
        max_new_tokens=NEW,
        stop_tokens=(),
        pad_token=0,
        seed=0,
        capacity=None,
        placement=model.placement,
    )
    before = jax.tree.map(lambda leaf: leaf.sharding, ready.cache)
    static = {"config": model.config, "max_new": ready.new_slots}
    with jax.set_mesh(model.mesh):
        carry = driver.start(model.params, ready.request, ready.cache, strategy, **static)
        given = (model.params, ready.request, carry, strategy, jnp.asarray(4, jnp.int32))
        program = driver.advance.lower(*given, config=model.config).compile()
    same = jax.tree.map(
        lambda leaf, sharding: leaf.sharding.is_equivalent_to(sharding, leaf.ndim), carry.cache, before
    )
    return {"collectives": collectives(program), "keeps_its_place": all(jax.tree.leaves(same))}


def generations(config, strategies, rows=ROWS, **sizes):
    """Whether each strategy gives the same tokens."""
    one = on_one(config)
    many = one.on_mesh(make_mesh(**sizes))
    results = {}
    for name, strategy in strategies.items():
        both = [model.generate(tokens(rows), max_new_tokens=NEW, strategy=strategy) for model in (one, many)]
        results[name] = bool(np.array_equal(both[0].tokens, both[1].tokens))
        assert len(set(both[0].tokens.ravel().tolist())) > 3, "these tokens prove little"
    return results


def mixed(name, rows=ROWS, **sizes):
    config = MIXED[name]
    return {
        "forward": forward(config, rows, **sizes),
        "steps": steps(config, rows, **sizes),
        "generate": generations(config, {"autoregressive": Autoregressive()}, rows, **sizes),
    }


def speculative():
    config = MIXED["hybrid"]
    small = replace(config, blocks=config.blocks[:1])
    draft = Draft(small, random_params(small.spec()))
    return generations(config, {"draft": Speculative(draft=draft, gamma=3)}, tensor=8)


def masked():
    strategy = MaskedDiffusion(steps=4, blocks=FixedBlocks(10), sampler=Sample())
    return generations(FILLING, {"masked": strategy}, tensor=8)


CHECKS = {
    "transformer": lambda: mixed("transformer", tensor=8),
    "recurrent": lambda: mixed("recurrent", tensor=8),
    "experts": lambda: mixed("experts", rows=8, expert=4, tensor=2),
    "hybrid-spread": lambda: mixed("hybrid", rows=4, data=2, fsdp=2, tensor=2),
    "few-rows-experts": lambda: forward(MIXED["experts"], rows=2, expert=8),
    "speculative": speculative,
    "masked": masked,
    **{
        f"tensor-{name}": lambda config=config: forward(config, tensor=8) for name, config in DECODERS.items()
    },
    **{
        f"expert-{name}": lambda config=config: forward(config, rows=8, expert=4, tensor=2)
        for name, config in DECODERS.items()
        if name.startswith("ffn-")
    },
}


if __name__ == "__main__":
    print(json.dumps({name: CHECKS[name]() for name in sys.argv[1:]}))
