"""What finds no slot in a cache takes nothing with it: near the capacity, a model is one with more slots."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import (
    ARCHITECTURES,
    VOCAB,
    attention,
    commit,
    decoder,
    draw_tokens,
    peek,
    quick_jit,
    random_params,
    ssd,
)
from strategy_helpers import in_tiers

from jaxmodels.layers.cache.d2o import D2O
from jaxmodels.layers.cache.infinipot import InfiniPotV
from jaxmodels.layers.cache.lserve import LServe
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.cache.s2o import S2O
from jaxmodels.layers.cache.sinks import SinkCache
from jaxmodels.models.prefill import prefill
from jaxmodels.models.slots import committable, token_limit

CAPACITY, ROOMY, WINDOW = 8, 64, 4
TREE = jnp.asarray([[1, 0, 0, 0], [1, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1]], bool)
DEPTH = jnp.asarray([0, 1, 1, 2])
PATHS = np.array([[0, 1, 3], [0, 2, 2]])
POLICIES = {
    "ring_that_is_cut": attention(sliding_window=6, cache=RingCache(longest_peek=8)),
    "sinks": attention(cache=SinkCache(sinks=2, recent=3, longest_peek=4)),
    "sinks_that_are_cut": attention(cache=SinkCache(sinks=2, recent=30, longest_peek=8)),
    "lserve": attention(
        cache=LServe(streaming_heads=(1,), budget=8, page=4, subpages=2, sinks=1, local=3, longest_peek=4)
    ),
    "d2o": attention(cache=D2O(budget=4, recent=2, sinks=1, spare=1, longest_peek=4)),
    "d2o_that_is_cut": attention(cache=D2O(budget=30, recent=2, longest_peek=4)),
    "infinipot": attention(cache=InfiniPotV(budget=8, keep=4, recent=1, longest_peek=4)),
    "infinipot_that_is_cut": attention(cache=InfiniPotV(budget=40, keep=30, recent=1, longest_peek=4)),
    "s2o": attention(cache=S2O()),
}
UNLIMITED = {"ssd", "mamba", "delta", "ring", "sinks", "d2o", "infinipot"}
FIRST = ("attention", "hybrid", "latent", "ring", "sinks_that_are_cut")
MODELS = ARCHITECTURES | {name: decoder(layer, ssd()) for name, layer in POLICIES.items()}
MODELS["encoded_anew"] = dataclasses.replace(decoder(attention(), ssd()), recode_beyond=5)
OTHERS = [name for name in MODELS if name not in FIRST]


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", in_tiers(FIRST, OTHERS[::2]))
def test_near_the_capacity_a_model_is_one_with_more_slots(name):
    """Random windows, of which random parts are committed, in two rows that go on at their own pace."""
    config, rng = MODELS[name], np.random.default_rng(0)
    params = random_params(config.spec())
    tight, roomy = (config.init_cache(2, capacity) for capacity in (CAPACITY, ROOMY))
    limit = token_limit(config.blocks, tight.layers)
    assert limit == (None if name in UNLIMITED else CAPACITY)
    length = np.zeros(2, int)
    for i in range(14):
        tokens = jnp.asarray(rng.integers(VOCAB, size=(2, WINDOW)), jnp.int32)
        asked = rng.integers(WINDOW + 1, size=2)
        valid = asked if limit is None else np.minimum(asked, limit - length)
        tree = {} if i % 3 else {"mask": TREE, "positions": length[:, None] + DEPTH}
        ours, pending = peek(config, params, tokens, tight, valid=jnp.asarray(asked), **tree)
        expected, roomy_pending = peek(config, params, tokens, roomy, valid=jnp.asarray(valid), **tree)
        np.testing.assert_array_equal(pending.valid, valid)
        for row in range(2):
            np.testing.assert_allclose(ours[row, : valid[row]], expected[row, : valid[row]], atol=2e-5)
        n, path = rng.integers(-1, WINDOW + 3, size=2), jnp.asarray(PATHS)
        if i % 3 == 0:
            taken = [
                int(np.cumprod(path < count)[: max(int(k), 0)].sum())
                for path, count, k in zip(PATHS, valid, n, strict=True)
            ]
            tight = commit(config, pending, jnp.asarray(n), path)
            roomy = commit(config, roomy_pending, jnp.asarray(taken, jnp.int32), path)
        elif i % 3 == 1:
            taken = np.clip(n, 0, valid)
            tight = commit(config, pending, jnp.asarray(n))
            roomy = commit(config, roomy_pending, jnp.asarray(taken, jnp.int32))
        else:
            taken = valid
            tight, roomy = commit(config, pending), commit(config, roomy_pending)
        length = length + np.asarray(taken)
        np.testing.assert_array_equal(tight.length, length)
        np.testing.assert_array_equal(roomy.length, length)


@pytest.mark.parametrize("name", ["attention", pytest.param("encoded_anew", marks=pytest.mark.sweep)])
def test_a_peek_at_the_end_leaves_what_was_committed(name):
    config = MODELS[name]
    params, tokens = random_params(config.spec()), draw_tokens(2, 11)
    _, pending = peek(config, params, tokens[:, :6], config.init_cache(2, CAPACITY))
    cache = commit(config, pending)
    _, pending = peek(config, params, tokens[:, 6:10], cache)
    np.testing.assert_array_equal(pending.valid, [2, 2])
    again = commit(config, pending, jnp.zeros(2, jnp.int32))
    np.testing.assert_array_equal(
        peek(config, params, tokens[:, 6:8], again)[0],
        peek(config, params, tokens[:, 6:8], cache)[0],
    )


def test_what_can_be_committed():
    valid = jnp.asarray([3, 0, 2])
    np.testing.assert_array_equal(committable(valid, None, None), valid)
    np.testing.assert_array_equal(committable(valid, jnp.asarray([5, 1, -4]), None), [3, 0, 0])
    path = jnp.asarray([[0, 2, 3, 1], [0, 0, 0, 0], [1, -1, 0, 0]])
    np.testing.assert_array_equal(committable(valid, None, path), [2, 0, 1])
    np.testing.assert_array_equal(committable(valid, jnp.asarray([1, 1, 9]), path), [1, 0, 1])


# --- prompts -----------------------------------------------------------------------------------------


@pytest.mark.sweep
def test_of_a_prompt_that_is_too_long_the_tokens_that_fit_are_settled():
    """Of one in several windows; a single window that is longer than the cache is refused."""
    config = MODELS["hybrid"]
    params, tokens, lengths = random_params(config.spec()), draw_tokens(2, 12), jnp.asarray([5, 12])
    run = quick_jit(lambda cache, lengths: prefill(config, params, tokens, lengths, cache, WINDOW))
    last, cache = run(config.init_cache(2, 7), lengths)
    np.testing.assert_array_equal(cache.length, [5, 7])
    expected, roomy = run(config.init_cache(2, ROOMY), jnp.asarray([5, 7]))
    np.testing.assert_allclose(last, expected, atol=2e-5)
    following = [peek(config, params, tokens[:, :1], one)[0] for one in (cache, roomy)]
    np.testing.assert_allclose(following[0][0], following[1][0], atol=2e-5)


def test_a_prompt_that_is_known_to_be_too_long_is_refused():
    config = MODELS["hybrid"]
    params, lengths = random_params(config.spec()), jnp.asarray([5, 12])
    with pytest.raises(ValueError, match="row 1 has 12 tokens, the cache has room for 7"):
        prefill(config, params, draw_tokens(2, 12), lengths, config.init_cache(2, 7), WINDOW)
