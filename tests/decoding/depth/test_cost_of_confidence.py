"""What asking costs: the compiled step at the shape of 100 million parameters, with a test at four exits."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxmodels as jm
from benchmarks import depth
from benchmarks.grown import SHAPES_100M
from jaxmodels.decoding.depth import (
    AmongTokens,
    LinearConfidence,
    MaxProbability,
    MLPConfidence,
    Similarity,
    UntilConfident,
)
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.depth import ALL_LAYERS
from jaxmodels.models.families import config_to_hf

EXITS = (2, 5, 8, 11)
MOST = 0.05  # of a step
FLOAT = 4  # bytes of a parameter

pytestmark = pytest.mark.sweep  # half a minute


@pytest.fixture(scope="module")
def config():
    return jm.config_from_hf({**hf_values(jm.load("tiny-qwen3").decoder), **SHAPES_100M["qwen3"]})


def hf_values(config):
    """Its configuration, of any number of layers."""
    return {name: value for name, value in config_to_hf(config).items() if name != "layer_types"}


def cost(config, depth):
    """FLOPs and bytes of one token, all blocks read."""
    cache = jax.eval_shape(functools.partial(config.init_cache, 1, 256))
    token = jax.ShapeDtypeStruct((1, 1), jnp.int32)

    def step(params, token, cache, depth):
        scored, pending = config.peek(params, token, cache, depth=depth)
        return scored.logits, config.commit(pending)

    lowered = jax.jit(step, donate_argnums=2).lower(abstract_params(config.spec()), token, cache, depth)
    analysis = lowered.compile({"xla_backend_optimization_level": 0}).cost_analysis()
    return np.asarray([analysis["flops"], analysis["bytes accessed"]])


@pytest.fixture(scope="module")
def plain(config):
    return cost(config, ALL_LAYERS)


def ones(*shape):
    return jnp.ones(shape, jnp.float32)


@pytest.mark.parametrize("name", ["similarity", "linear", "mlp", "few tokens"])
def test_a_cheap_test_costs_little_of_a_step(config, plain, name):
    blocks, width, hidden = len(config.blocks), config.d_model, 64
    confidence = {
        "similarity": Similarity(),
        "linear": LinearConfidence(weight=ones(blocks, width), bias=ones(blocks)),
        "mlp": MLPConfidence(
            w_in=ones(blocks, width, hidden),
            b_in=ones(blocks, hidden),
            w_out=ones(blocks, hidden),
            b_out=ones(blocks),
        ),
        "few tokens": AmongTokens(tokens=np.arange(128), confidence=MaxProbability()),
    }[name]
    more = cost(config, UntilConfident(confidence=confidence, threshold=0.9, asked=EXITS)) / plain - 1
    # The analysis counts a gather as reading all that it takes rows of, which no backend does.
    counted = more[:1] if name == "few tokens" else more
    assert (counted <= MOST).all(), dict(zip(("flops", "bytes"), more, strict=True))


@pytest.mark.parametrize("exits", [(2, 4, 6, 8), (1, 3, 5, 7, 9)], ids=["four", "every_second"])
@pytest.mark.parametrize("name", ["own", "100m"])
def test_a_head_of_few_rows_costs_little_of_a_step_in_the_shapes_of_the_benchmark(name, exits):
    values = hf_values(jm.load(depth.MODEL).decoder)
    config = jm.config_from_hf({**values, **(depth.SHAPES[name] or {})})
    plain = cost(config, ALL_LAYERS)
    few = AmongTokens(tokens=np.arange(128), confidence=MaxProbability())
    more = cost(config, UntilConfident(confidence=few, threshold=0.9, asked=exits)) - plain
    # The analysis counts a gather as reading all that it takes rows of, which no backend does.
    more[1] -= len(exits) * FLOAT * config.vocab_size * config.d_model
    assert (more <= MOST * plain).all(), dict(zip(("flops", "bytes"), more / plain, strict=True))


def test_the_whole_head_behind_every_block_costs_more_than_it_saves(config, plain):
    more = cost(config, UntilConfident(confidence=MaxProbability(), threshold=0.9)) / plain - 1
    assert (more > 0.3).all()
