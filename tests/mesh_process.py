"""Models spread over eight devices beside the same on one, in a process that has eight.

Called with names of `CHECKS`; prints JSON, for each what its function gives.
"""

import json
import os
import re
import sys
import tempfile
from dataclasses import replace

# On a busy machine it may take long until the threads of all devices have come to a sum.
os.environ["XLA_FLAGS"] = (
    f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count=8 "
    "--xla_cpu_collective_call_terminate_timeout_seconds=600"
)

import jax
import jax.numpy as jnp
import numpy as np
from denoiser_models import condition_of, times_of
from mesh_models import DECODERS, FILLING, FLOW_PARAMS, MIXED, VOCAB, WIDE_DENOISERS, WIDE_FLOW, WIDE_SCALES
from model_helpers import random_params

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, MaskedDiffusion, Sample, Speculative, driver
from jaxmodels.decoding.generation import plan
from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks
from jaxmodels.decoding.prompts import encode_prompts
from jaxmodels.decoding.speculative import Draft
from jaxmodels.expert_memory import expert_paths
from jaxmodels.holding import Holding
from jaxmodels.layers.quantized.quantization import QUANTIZATIONS, in_few_bits
from jaxmodels.layers.spec import walk
from jaxmodels.model import _forward
from jaxmodels.tpu_configs.mesh import make_mesh
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.shardings import Placement
from jaxmodels.training.on_mesh import Devices
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.train import first_state, make_train_step

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
    given = jnp.asarray(tokens(rows))
    with jax.set_mesh(mesh):
        program = _forward.lower(many.params, given, config=many.config).compile()
        logits = program(many.params, given)
    return {"error": error(logits, one(given)), "collectives": collectives(program)}


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


def loaded():
    """A model read onto a mesh, and written again: are its shards the slices, is the copy the original?"""
    one = jm.load("tiny-hybrid-moe")
    many = jm.load("tiny-hybrid-moe", mesh=make_mesh(data=2, tensor=4))
    original, config = dict(walk(one.params)), one.config
    cut, whole = set(), set()
    for path, leaf in walk(many.params):
        if leaf.shape == original[path].shape:
            for shard in leaf.addressable_shards:
                assert np.array_equal(shard.data, np.asarray(original[path])[shard.index]), path
            (whole if leaf.is_fully_replicated else cut).add(path.rsplit("/", 1)[-1])
    with tempfile.TemporaryDirectory() as directory:
        jm.save(many, directory)
        copy = jm.load(directory)
        again = jm.load(directory, mesh=many.mesh)
    same = all(np.array_equal(leaf, original[path]) for path, leaf in walk(copy.params))
    return {
        "cut": sorted(cut),
        "whole": sorted(whole),
        "copy": same and copy.config == config,
        "again": again.config == many.config != config,
    }


def trained():
    """One step with rows, parameters and features spread: differences in the loss and in the parameters."""
    config, given = MIXED["hybrid"], tokens(8, 16)
    schedule = WarmupCosine(peak=0.01, warmup_steps=1, total_steps=10)
    optimizer = AdamW(eps=1e-2).build(schedule, config.spec())
    results = []
    for sizes in (None, {"data": 2, "fsdp": 2, "tensor": 2}):
        devices = Devices(placement=None if sizes is None else Placement(mesh=make_mesh(**sizes)))
        with devices.in_use():
            places = devices.state(config, optimizer)
            state = devices.placed(first_state(random_params(config.spec()), optimizer), places)
            step = make_train_step(config, optimizer, schedule, shardings=places)
            for _ in range(2):  # the rate of the first step is 0
                state, metrics = step(state, devices.rows(given))
            results.append((float(metrics["loss"]), dict(walk(state.params))))
    (loss, expected), (spread_loss, spread) = results
    return {
        "loss": abs(spread_loss / loss - 1),
        "params": max(error(spread[path], leaf) for path, leaf in expected.items()),
        "cut": list(spread["blocks/0/mixer/w_x"].sharding.spec),
    }


def drawn(name, devices, rules=DEFAULT_RULES, **options):
    """The pictures of a bundled image model that devices share, beside those of one; read in slices, and
    drawn with arrays, or in few bits and watched on the way."""
    mesh, results = make_mesh(tensor=devices), {}
    for bits in (None, "int8"):
        one = jm.load(name, quantize=bits)
        many = jm.load(name, mesh=mesh, rules=rules, quantize=bits)
        expected = one.generate([0, 1], **options)
        assert np.ptp(expected.pixels) > 0.1, "these pictures prove little"
        got = list(many.stream([0, 1], **options))[-1] if bits else many.generate([0, 1], **options)
        results[bits or "arrays"] = error(got.pixels, expected.pixels)
    params = many.model.params if name == "tiny-maskgit" else many.params
    leaves = [part for _, leaf in walk(params) for part in jax.tree.leaves(leaf)]
    return results | {"cut": sum(not leaf.is_fully_replicated for leaf in leaves) / len(leaves)}


def numbers(*shape):
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape), jnp.float32)


def denoising(name):
    """One call of a denoiser."""
    config = WIDE_DENOISERS[name]
    canvas = numbers(2, 8, 8, config.projections.in_channels)
    return lambda params: config.denoise(params, canvas, times_of(name, 0.3, 0.6), condition_of(name))


def flowing(params):
    """From images to noise."""
    images = numbers(2, WIDE_FLOW.size, WIDE_FLOW.size, WIDE_FLOW.image_channels)
    return WIDE_FLOW.forward(params, 0.1 * images, jnp.array([0, 2]))


def scoring(config):
    """The scores of the codes of all scales."""
    shown = numbers(2, sum(config.sizes[1:]), config.code_width)
    return lambda params: config.forward(params, jnp.array([0, 2]), shown)


def image_layers(config, run, params=None, **sizes):
    """The difference of what a model of images computes, relative to the largest number, with its weights as
    arrays and in few bits."""
    placement = Placement(mesh=make_mesh(**sizes))
    params = random_params(config.spec()) if params is None else params
    results = {}
    for bits in ("arrays", "int8"):
        held = params if bits == "arrays" else in_few_bits(config, params, bits)
        expected = jax.jit(run)(held)
        with jax.set_mesh(placement.mesh):
            got = jax.jit(run)(placement.put(config, held))
        pairs = zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True)
        results[bits] = max(error(*pair) for pair in pairs)
    return results


def few_bits(name, rows=ROWS, **sizes):
    """The difference of logits of a model with weights in few bits, and whether its tokens are the same."""
    one = on_one(MIXED[name]).quantized("int8")
    many = one.on_mesh(make_mesh(**sizes))
    given = tokens(rows)
    both = [model.generate(given, max_new_tokens=NEW) for model in (one, many)]
    same = bool(np.array_equal(both[0].tokens, both[1].tokens))
    return {"error": error(many(given), one(given)), "generate": same}


def host_experts(rows=8, **sizes):
    """Differences of logits of a model with experts in host memory, held as arrays and in few bits, and what
    memory they are in."""
    one, placement = on_one(MIXED["experts"]), Placement(mesh=make_mesh(**sizes))
    results = {}
    for bits in ("arrays", "int8"):
        holding = Holding(placement=placement, quantization=QUANTIZATIONS.get(bits), experts="host")
        whole = one if bits == "arrays" else one.quantized(bits)
        held = holding.params(one.config, jax.device_put(one.params, holding.shardings(one.config)))
        many = replace(one, params=held).on_mesh(placement.mesh)
        results[bits] = {"error": error(many(tokens(rows)), whole(tokens(rows)))}
        there = [leaf for path, leaf in walk(many.params) if path in expert_paths(one.config)]
        results[bits]["memory"] = {
            leaf.sharding.memory_kind: leaf.is_fully_replicated for leaf in jax.tree.leaves(there)
        }
    return results


CHECKS = {
    "host-experts": lambda: host_experts(expert=4, tensor=2),
    "few-bits-transformer": lambda: few_bits("transformer", tensor=8),
    "few-bits-experts": lambda: few_bits("experts", rows=8, expert=4, tensor=2),
    "loaded": loaded,
    "trained": trained,
    "drawn-tiny-dit": lambda: drawn("tiny-dit", 4, steps=2),
    "drawn-tiny-tarflow": lambda: drawn("tiny-tarflow", 2),
    "drawn-tiny-maskgit": lambda: drawn("tiny-maskgit", 4, Rules(vocab=None), steps=3),
    "drawn-tiny-var": lambda: drawn("tiny-var", 4, guidance=1.5),
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
        f"denoiser-{name}": lambda name=name: image_layers(WIDE_DENOISERS[name], denoising(name), tensor=8)
        for name in WIDE_DENOISERS
    },
    "flow-of-images": lambda: image_layers(WIDE_FLOW, flowing, FLOW_PARAMS, tensor=8),
    **{
        f"scales-{name}": lambda config=config: image_layers(config, scoring(config), tensor=8)
        for name, config in WIDE_SCALES.items()
    },
    **{
        f"expert-{name}": lambda config=config: forward(config, rows=8, expert=4, tensor=2)
        for name, config in DECODERS.items()
        if name.startswith("ffn-")
    },
}


if __name__ == "__main__":
    print(json.dumps({name: CHECKS[name]() for name in sys.argv[1:]}))
