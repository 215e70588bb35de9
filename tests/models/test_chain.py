"""Tokens that are shown one by one are a window: for every mixer, cache policy and number that is kept."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import (
    ARCHITECTURES,
    VOCAB,
    attention,
    decoder,
    delta,
    draw_tokens,
    quick_jit,
    random_params,
    ssd,
)

from jaxmodels.layers.cache.d2o import D2O
from jaxmodels.layers.cache.infinipot import InfiniPotV
from jaxmodels.layers.cache.lserve import LServe
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.cache.s2o import S2O
from jaxmodels.layers.cache.sinks import SinkCache
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.rope_scaling import LongRopeScaling
from jaxmodels.layers.spec import abstract_params
from jaxmodels.layers.state.replay import Replay
from jaxmodels.models.chain import can_join, peek_chain

SIZE, CAPACITY = 4, 32
LONG = LongRopeScaling(
    short_factor=(1.0, 1.5, 2.0),
    long_factor=(4.0, 5.0, 9.0),
    original_max_position_embeddings=8,
    factor=4.0,
)
RESCALED = attention(rope=Rope(rotary_dim=6, theta=50.0, scaling=LONG))
JOINED = {
    "sinks": SinkCache(sinks=2, recent=5, longest_peek=SIZE),
    "s2o": S2O(query_block=4),
}
EVICTING = {
    "d2o": D2O(budget=6, recent=3, sinks=1, spare=2, longest_peek=8),
    "infinipot": InfiniPotV(budget=16, keep=6, recent=2, longest_peek=8),
    "lserve": LServe(budget=16, page=8, longest_peek=8),
}
MODELS = {
    **ARCHITECTURES,
    **{name: decoder(attention(), attention(cache=cache)) for name, cache in {**JOINED, **EVICTING}.items()},
    # The rings of both are folded in front of some windows and not of others.
    "replayed": decoder(ssd(cache=Replay(ring=6, window=SIZE)), delta(cache=Replay(ring=7, window=SIZE))),
    "encoded_anew": dataclasses.replace(decoder(RESCALED, RESCALED), recode_beyond=8),
}
# Of each way to keep a history.
CORE = ("attention", "ssd", "latent", "delta", "ring", "d2o", "replayed")
OTHERS = [name for name in MODELS if name not in CORE]


@functools.partial(quick_jit, static_argnames="config")
def one_by_one(params, tokens, cache, valid, ends, *, config):
    """The window's logits and pending, as `peek` gives them, with the tokens given beforehand.

    ends: how many tokens there are before each row's chain ends of itself.
    """

    def choose(i, scored, seen):
        following = jax.lax.dynamic_index_in_dim(tokens, jnp.minimum(i + 1, SIZE - 1), 1, keepdims=False)
        return following, i + 1 < ends, jax.lax.dynamic_update_slice_in_dim(seen, scored.logits, i, axis=1)

    seen = jnp.zeros((*tokens.shape, VOCAB))
    return peek_chain(config, params, tokens[:, 0], cache, SIZE, choose, seen, valid=valid)


@functools.partial(quick_jit, static_argnames="config")
def at_once(params, tokens, cache, valid, *, config):
    scored, pending = config.peek(params, tokens, cache, valid=valid, known=cache.length + 1)
    return scored.logits, pending


@functools.partial(quick_jit, static_argnames="config")
def settle(params, tokens, cache, lengths, *, config):
    return config.commit(config.peek(params, tokens, cache, valid=lengths)[1])


@functools.partial(quick_jit, static_argnames="config")
def follow(params, tokens, pending, n, *, config):
    """The cache that is left of a window, and what it makes of the next tokens."""
    cache = config.commit(pending, n)
    return cache, config.peek(params, tokens, cache)[0].logits


@pytest.mark.parametrize("name", MODELS)
def test_only_caches_that_evict_are_shown_the_growing_window(name):
    config = MODELS[name]
    cache = jax.eval_shape(lambda: config.init_cache(2, CAPACITY))
    assert can_join(config, cache, SIZE) == (name not in EVICTING)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", [*CORE, *OTHERS[::3]])
def test_steps_are_one_window(name):
    """Rows of different lengths, with all tokens, some and none; then every number is kept once per row."""
    config = MODELS[name]
    params = random_params(config.spec())
    batch = SIZE + 1
    prompts, lengths = draw_tokens(batch, 4), jnp.asarray([3, 4, 1, 2, 3])
    cache = settle(params, prompts, config.init_cache(batch, CAPACITY), lengths, config=config)
    more = settle(params, prompts[:, ::-1][:, :3], cache, jnp.full(batch, 3), config=config)
    tokens, following = draw_tokens(batch, SIZE, seed=1), draw_tokens(batch, 3, seed=2)
    whole_length, ragged, none = jnp.full(batch, SIZE), jnp.asarray([0, 1, 2, SIZE, 3]), jnp.zeros(batch, int)
    ending = jnp.asarray([1, 2, 2, 1, 1])
    for valid, ends in (
        (whole_length, whole_length),
        (ragged, whole_length),
        (ragged, ending),
        (none, ending),
    ):
        logits, whole = at_once(params, tokens, more, jnp.minimum(valid, ends), config=config)
        ours, chained = one_by_one(params, tokens, more, valid, ends, config=config)
        assert jax.tree.structure(chained) == jax.tree.structure(whole)
        assert jax.eval_shape(lambda p: p, chained) == jax.eval_shape(lambda p: p, whole)
        real = np.arange(SIZE) < np.asarray(whole.valid)[:, None]
        np.testing.assert_array_equal(chained.valid, whole.valid)
        np.testing.assert_array_equal(chained.start, whole.start)
        np.testing.assert_allclose(ours[real], logits[real], atol=2e-5)
        for shift in range(SIZE + 1):
            n = jnp.minimum((jnp.arange(batch) + shift) % (SIZE + 1), whole.valid)
            left, expected = follow(params, following, whole, n, config=config)
            ours_left, ours_next = follow(params, following, chained, n, config=config)
            np.testing.assert_array_equal(ours_left.length, left.length)
            np.testing.assert_allclose(ours_next, expected, atol=3e-5)


def test_drafts_longer_than_a_cache_has_room_for_are_refused():
    config = decoder(attention(sliding_window=3, cache=RingCache(longest_peek=3)))
    params = abstract_params(config.spec())
    cache = jax.eval_shape(lambda: config.init_cache(2, CAPACITY))
    tokens, valid = (jax.ShapeDtypeStruct(shape, jnp.int32) for shape in ((2, SIZE), (2,)))
    with pytest.raises(ValueError, match="a window of 4 tokens is longer than RingCache's longest_peek=3"):
        one_by_one.trace(params, tokens, cache, valid, valid, config=config)
