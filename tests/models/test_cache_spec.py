"""Logical axes of the parameters and caches of every family."""

import functools

import jax
import jax.numpy as jnp
import pytest
from configurations import CASES
from configurations.case import hf_dict
from model_helpers import attention, decoder
from tpu_model_configs import CONFIGS

import jaxmodels as jm
from jaxmodels.layers.cache.d2o import D2O
from jaxmodels.layers.cache.infinipot import InfiniPotV
from jaxmodels.layers.cache.lserve import LServe
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.cache.s2o import S2O
from jaxmodels.layers.cache.sinks import SinkCache
from jaxmodels.layers.spec import LOGICAL_AXES, Buffer, walk

BATCH, CAPACITY = 3, 40
MODELS = {case.name: hf_dict(case) for case in CASES} | {f"{name}_wide": CONFIGS[name] for name in CONFIGS}
# What states have and parameters have not.
OF_STATES = {"batch", "slots"}


@functools.cache
def config_of(name):
    return jm.config_from_hf(MODELS[name])


def test_axes_are_those_of_the_glossary():
    used = {}
    for name in MODELS:
        config = config_of(name)
        for path, param in walk(config.spec()):
            used |= dict.fromkeys(param.axes, f"{name}: {path}")
        for leaf in jax.tree.leaves(config.cache_spec(BATCH, CAPACITY)):
            used |= dict.fromkeys(leaf.axes, f"{name}: {leaf}")
    unknown = {axis: place for axis, place in used.items() if axis not in (None, *LOGICAL_AXES)}
    assert not unknown
    assert set(LOGICAL_AXES) == used.keys() - {None} | {"layers"}  # the axis of stacked layers, in training


def sizes_of_parameters(spec):
    sizes = {}
    for _, param in walk(spec):
        for axis, size in zip(param.axes, param.shape, strict=True):
            sizes.setdefault(axis, set()).add(size)
    return sizes


@pytest.mark.parametrize("name", MODELS)
def test_a_cache_has_the_axes_of_the_parameters(name):
    config = config_of(name)
    spec = config.cache_spec(BATCH, CAPACITY)
    for block, state in zip(config.blocks, spec.layers, strict=True):
        shared = getattr(block, "shared_spec", dict)()
        sizes = sizes_of_parameters({"own": block.spec(), "shared": shared})
        for leaf in jax.tree.leaves(state):
            assert isinstance(leaf, Buffer)
            assert leaf.axes[0] == "batch" and leaf.shape[0] == BATCH
            for axis, size in zip(leaf.axes[1:], leaf.shape[1:], strict=True):
                assert axis is None or axis in OF_STATES or size in sizes[axis], (leaf, axis)


@pytest.mark.parametrize(
    "policy",
    [
        D2O(budget=9, recent=2),
        InfiniPotV(budget=20, keep=8, recent=2, longest_peek=9),
        LServe(streaming_heads=(1,), budget=8, page=8, sinks=4, local=8),
        RingCache(),
        S2O(),
        SinkCache(sinks=2, recent=5),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_a_policy_names_the_axes_of_its_slots(policy):
    window = 7 if isinstance(policy, RingCache) else None
    config = decoder(attention(cache=policy, sliding_window=window))
    for leaf in jax.tree.leaves(config.cache_spec(BATCH, CAPACITY)):
        assert leaf.axes[0] == "batch" and set(leaf.axes) <= {None, *LOGICAL_AXES}
        if len(leaf.shape) == 4:
            assert leaf.axes[1] == "kv_heads" and leaf.axes[3] == "head_dim"


def test_a_cache_is_what_its_spec_says():
    config = decoder(attention(cache=D2O(budget=9, recent=2)))
    spec, cache = config.cache_spec(2, 30), config.init_cache(2, 30, jnp.bfloat16)
    assert jax.tree.structure(spec) == jax.tree.structure(cache)
    for leaf, array in zip(jax.tree.leaves(spec), jax.tree.leaves(cache), strict=True):
        assert array.shape == leaf.shape
        assert array.dtype == jnp.dtype(leaf.dtype or jnp.bfloat16)
        assert (array == jnp.asarray(leaf.fill, array.dtype)).all()
    slots = cache.layers[0].slots
    assert (slots.positions == -1).all() and (slots.k == 0).all() and slots.positions.dtype == jnp.int32
