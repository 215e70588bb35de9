"""The loop around every strategy's step works in the caches' own buffers and calls no host."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest
from model_helpers import VOCAB
from strategy_helpers import MODELS

from jaxmodels.decoding import (
    AdaptiveDepth,
    Arbitrage,
    Autoregressive,
    BestOf,
    Draft,
    EarlyExit,
    Jacobi,
    MaskedDiffusion,
    PromptLookup,
    Speculative,
    TreeDrafter,
    driver,
)
from jaxmodels.decoding.choosing.arbitrage import ArbitrageCarry
from jaxmodels.decoding.choosing.best_of import BestOfCarry
from jaxmodels.decoding.depth import Plan
from jaxmodels.decoding.masked import DLLMCache, Dual, FinishedBlocks, FixedBlocks, PrefixCache, Recompute
from jaxmodels.decoding.masked.caches.kept import Kept
from jaxmodels.layers.masks import BIDIRECTIONAL, BlockCausal
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.cache import Cache
from jaxmodels.models.depth import ALL_LAYERS
from jaxmodels.models.filling import MaskFilling
from jaxmodels.tpu_configs.programs import Workload, abstract_arguments, host_transfers

CONFIG = MODELS["attention"]
# Whether the frequencies change, no program can tell: a history of more than eight tokens is encoded anew.
ANEW = dataclasses.replace(CONFIG, recode_beyond=8)
FILLING = MaskFilling(mask_token=VOCAB - 1)
BOTH_WAYS = dataclasses.replace(CONFIG, mask=BIDIRECTIONAL, filling=FILLING)
BY_BLOCK = dataclasses.replace(CONFIG, mask=BlockCausal(4), filling=FILLING)
QUICK = {"xla_backend_optimization_level": 0}


def with_capacity(config, carry, capacity, depth):
    """The carry with all its caches of a capacity, whatever they were planned for."""
    cache = jax.eval_shape(lambda: config.init_cache(2, capacity, depth=depth))
    if isinstance(getattr(carry, "kept", None), Kept):
        return dataclasses.replace(carry, kept=dataclasses.replace(carry.kept, cache=cache))
    if isinstance(carry, BestOfCarry):
        rows = carry.samples.token.shape[0]
        cache = jax.eval_shape(lambda: config.init_cache(rows, capacity, depth=depth))
        return dataclasses.replace(carry, samples=dataclasses.replace(carry.samples, cache=cache))
    caches = {"cache": cache}
    if drafts_with_a_model(carry):
        caches["draft_cache" if isinstance(carry, ArbitrageCarry) else "drafts"] = cache
    return dataclasses.replace(carry, **caches)


def drafts_with_a_model(carry):
    return isinstance(carry, ArbitrageCarry) or isinstance(getattr(carry, "drafts", None), Cache)


def cache_bytes(carry):
    cache = carry.samples.cache if isinstance(carry, BestOfCarry) else carry.cache
    caches = [cache, *([cache] if drafts_with_a_model(carry) else [])]
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(caches))


def speculative(config):
    return Speculative(draft=Draft(config, abstract_params(config.spec())), gamma=2)


def repeating(config):
    return AdaptiveDepth(depth=Plan((2, *(1,) * (len(config.blocks) - 1))))


def tree(config):
    draft = Draft(config, abstract_params(config.spec()))
    return Speculative(draft=TreeDrafter(draft=draft, siblings=(2, 1)))


def arbitrage(config):
    draft = Draft(config, abstract_params(config.spec()))
    return Arbitrage(draft=draft, delimiters=(3,), longest=4)


def masked(cache):
    return MaskedDiffusion(blocks=FixedBlocks(4), cache=cache)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    ("config", "strategy"),
    [
        pytest.param(CONFIG, speculative(CONFIG), id="Speculative"),
        pytest.param(CONFIG, tree(CONFIG), id="TreeDrafter"),
        pytest.param(CONFIG, Speculative(draft=PromptLookup(size=3)), id="PromptLookup"),
        pytest.param(CONFIG, Jacobi(window=3), id="Jacobi"),
        pytest.param(CONFIG, BestOf(samples=2), id="BestOf"),
        pytest.param(CONFIG, arbitrage(CONFIG), id="Arbitrage"),
        pytest.param(CONFIG, EarlyExit(), id="EarlyExit"),
        pytest.param(CONFIG, repeating(CONFIG), id="AdaptiveDepth"),
        pytest.param(BOTH_WAYS, masked(Recompute()), id="Recompute"),
        pytest.param(BOTH_WAYS, masked(Dual()), id="Dual"),
        pytest.param(BOTH_WAYS, masked(PrefixCache()), id="PrefixCache"),
        pytest.param(BOTH_WAYS, masked(DLLMCache()), id="DLLMCache"),
        pytest.param(BY_BLOCK, masked(FinishedBlocks()), id="FinishedBlocks"),
        pytest.param(ANEW, Autoregressive(), id="encoded_anew"),
        pytest.param(ANEW, speculative(ANEW), id="encoded_anew-Speculative", marks=pytest.mark.sweep),
    ],
)
def test_temporary_memory_does_not_grow_with_the_caches(config, strategy):
    workload = Workload(batch=2, prompt=16, new_tokens=16, dtype="float32")
    numbers = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.float32), strategy)
    given, temporary = abstract_arguments(config, workload, numbers), []
    for capacity in (1024, 8192):
        carry = with_capacity(config, given.carry, capacity, getattr(strategy, "depth", ALL_LAYERS))
        lowered = driver.advance.lower(
            given.params, given.request, carry, numbers, given.steps, config=config
        )
        compiled = lowered.compile(compiler_options=QUICK)
        memory = compiled.memory_analysis()
        assert memory.alias_size_in_bytes >= cache_bytes(carry)
        assert host_transfers(compiled.as_text()) == ()
        temporary.append(memory.temp_size_in_bytes)
    layers = len(CONFIG.blocks) * (2 if drafts_with_a_model(given.carry) else 1)
    # What may grow is per slot, not per slot, head and feature: positions and masks.
    assert temporary[1] - temporary[0] <= 16 * layers * 2 * (8192 - 1024)
