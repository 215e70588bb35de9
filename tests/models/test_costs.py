"""Costs against what XLA counts in the compiled programs, and against counts by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from model_helpers import ARCHITECTURES, attention, decoder, ssd
from tpu_model_configs import CONFIGS

from jaxmodels.layers.cache.lserve import LServe
from jaxmodels.layers.moe.moe import MoE
from jaxmodels.layers.spec import abstract_params, count_params, init_params
from jaxmodels.models import decoder as decoder_module
from jaxmodels.models.costs import (
    cache_bytes,
    flops_per_token,
    parameter_counts,
    prefill_flops,
    weight_bytes,
    weight_bytes_per_step,
)
from jaxmodels.models.families import config_from_hf

# XLA counts the body of a loop once, and experts are visited in a loop: see tests/layers for their costs.
COUNTABLE = [
    family
    for family, values in CONFIGS.items()
    if not any(isinstance(block.ffn, MoE) for block in config_from_hf(values).blocks)
]


@pytest.mark.parametrize("family", COUNTABLE)
def test_flops_are_those_of_the_compiled_step(family):
    """One token over a full cache of 64 slots. Norms and activations, left out, are a quarter here."""
    config, context = config_from_hf(CONFIGS[family]), 64

    @functools.partial(jax.jit, donate_argnums=2)
    def step(params, token, cache):
        scored, pending = config.peek(params, token, cache)
        return scored.logits, config.commit(pending, jnp.ones((1,), jnp.int32))

    cache = jax.eval_shape(functools.partial(config.init_cache, 1, context))
    compiled = step.lower(
        abstract_params(config.spec()), jax.ShapeDtypeStruct((1, 1), jnp.int32), cache
    ).compile()
    measured, computed = compiled.cost_analysis()["flops"], flops_per_token(config, context).total
    assert 0.9 * computed <= measured <= 1.3 * computed, (measured, computed)


def test_flops_of_attention_by_hand():
    config = decoder(attention(num_heads=4, num_kv_heads=2, head_dim=6))
    cost = flops_per_token(config, 10)
    projections = 2 * 16 * (4 + 2 + 2 + 4) * 6
    assert cost.weights == projections + 2 * 3 * 16 * 24 + 2 * 29 * 16
    assert cost.context == 10 * 4 * 6 * (2 + 2)


def test_a_sliding_window_bounds_the_context():
    sliding, full = decoder(attention(sliding_window=3)), decoder(attention())
    assert flops_per_token(sliding, 100) == flops_per_token(sliding, 3) == flops_per_token(full, 3)


def test_a_state_costs_the_same_at_every_length():
    config = decoder(ssd())
    assert flops_per_token(config, 1) == flops_per_token(config, 10_000)
    assert flops_per_token(config, 1).context == 5 * 8 * 6 * 4


def test_prefill_is_the_sum_over_positions_with_one_head():
    config = ARCHITECTURES["sliding"]
    head = 2 * config.vocab_size * config.d_model
    by_token = [flops_per_token(config, seen).total - head for seen in range(1, 9)]
    assert prefill_flops(config, 8) == sum(by_token) + head


def policies():
    """A cost with one corner or none, one with two, and those of caches in pages, which rise in steps."""
    heads = {"num_heads": 4, "num_kv_heads": 2, "head_dim": 8}
    paged = LServe(
        page=8, subpages=2, budget=64, refresh=4, sinks=8, local=16, streaming_heads=frozenset({1})
    )
    return {
        "full": (attention(**heads),),
        "sliding": (attention(sliding_window=100, **heads), ssd(), attention(**heads)),
        "pages": (dataclasses.replace(attention(**heads), cache=paged),),
    }


@pytest.mark.parametrize("name", policies())
@pytest.mark.parametrize("length", [1, 17, 99, 100, 101, 1_000, 5_000])
def test_prefill_of_long_prompts_is_the_sum_too(name, length):
    config = decoder(*policies()[name])
    head = 2 * config.vocab_size * config.d_model
    expected = sum(flops_per_token(config, seen).total - head for seen in range(1, length + 1)) + head
    assert prefill_flops(config, length) == pytest.approx(expected, rel=1e-4 if name == "pages" else 0, abs=0)


@pytest.mark.parametrize("name", policies())
def test_the_work_of_summing_does_not_grow_with_the_prompt(name, monkeypatch):
    config, asked = decoder(*policies()[name]), []
    cost = decoder_module.block_flops
    monkeypatch.setattr(
        decoder_module, "block_flops", lambda block, seen: asked.append(seen) or cost(block, seen)
    )
    prefill_flops(config, 2**31 - 1)
    assert len(asked) < 15_000


def nbytes(tree):
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_bytes_are_those_of_the_arrays(name, dtype):
    config = ARCHITECTURES[name]
    params = jax.eval_shape(lambda: init_params(config.spec(), jax.random.key(0), dtype))
    assert weight_bytes(config, dtype) == nbytes(params)
    cache, cost = jax.eval_shape(lambda: config.init_cache(3, 40, dtype)), cache_bytes(config, dtype)
    assert 3 * (cost.per_row + 40 * cost.per_token) == nbytes(cache)
    unread = 0 if config.tie_embeddings else nbytes(params["embed"]["weight"])
    assert weight_bytes_per_step(config, dtype) == weight_bytes(config, dtype) - unread


def test_a_step_reads_no_more_experts_than_its_rows_choose():
    config = config_from_hf(CONFIGS["qwen3_moe"])
    experts = 3 * config.d_model * 128 * 4
    everything = weight_bytes_per_step(config, "float32", rows=2)
    assert weight_bytes_per_step(config, "float32") == everything - 2 * experts * len(config.blocks)
    assert weight_bytes_per_step(config, "float32", rows=9) == everything


def test_parameters_by_part():
    config = decoder(ssd(), attention())
    counts = parameter_counts(config)
    assert counts.total == count_params(config.spec())
    assert counts.embedding == counts.head == 29 * 16
    assert counts.feed_forwards == 3 * 16 * 24
    assert counts.norms == 16 * (1 + 2 + 1)
    assert counts.mixers == count_params(ssd().spec()) + count_params(attention().spec())
    assert parameter_counts(dataclasses.replace(config, tie_embeddings=True)).head == 0


@pytest.mark.parametrize("call", [flops_per_token, prefill_flops])
def test_a_token_sees_at_least_itself(call):
    name = "context" if call is flops_per_token else "length"
    for count in (0, 2**31, 1.5, True):
        with pytest.raises(ValueError, match=f"{name} must be a whole number.*got {count}"):
            call(ARCHITECTURES["ssd"], count)


def test_a_layer_without_a_cost_is_named():
    @dataclasses.dataclass(frozen=True)
    class Mystery:
        pass

    config = decoder(attention())
    block = dataclasses.replace(config.blocks[0], ffn=Mystery())
    with pytest.raises(ValueError, match="Mystery does not know its cost"):
        flops_per_token(dataclasses.replace(config, blocks=(block,)), 1)
