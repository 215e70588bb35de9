"""Committed entries that are recomputed in place are those of the edited sequence."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from cache_helpers import rotate, softmax_by_hand
from model_helpers import (
    ARCHITECTURES,
    attention,
    commit,
    decoder,
    draw_tokens,
    forward,
    peek,
    quick_jit,
    random_params,
    ssd,
)

from jaxmodels.layers.cache.d2o import D2O
from jaxmodels.layers.cache.full import FULL_CACHE
from jaxmodels.layers.cache.infinipot import InfiniPotV
from jaxmodels.layers.cache.lserve import LServe
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.cache.s2o import S2O
from jaxmodels.layers.cache.sinks import SinkCache
from jaxmodels.layers.kv_cache import EMPTY
from jaxmodels.layers.masks import BIDIRECTIONAL, CAUSAL, BlockCausal, Sliding, Split
from jaxmodels.layers.norm import RMSNorm
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.cache_policies import attention_layers, with_cache_policy
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.scored import NOWHERE

SIZE, CAPACITY = 8, 13
OLD, EDITED, NEXT = draw_tokens(2, SIZE), draw_tokens(2, SIZE, seed=5), draw_tokens(2, 1, seed=6)
MODELS = {
    "attention": ARCHITECTURES["attention"],
    "sliding": ARCHITECTURES["sliding"],
    "latent": ARCHITECTURES["latent"],
    "s2o": decoder(attention(cache=S2O(query_block=1)), attention(sink_logits=True)),
}
# Two rows with other slots, in no order.
SLOTS = jnp.asarray([[6, 1, 4], [0, 7, 2]])
refresh = quick_jit(Decoder.refresh, static_argnums=0)


def settled(config, params, tokens, capacity=CAPACITY, part=SIZE):
    """The cache that holds these tokens, fed so many at a time."""
    cache = config.init_cache(2, capacity)
    for begin in range(0, tokens.shape[1], part):
        cache = commit(config, peek(config, params, tokens[:, begin : begin + part], cache)[1])
    return cache


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, atol=2e-5)


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    config = MODELS[request.param]
    return config, random_params(config.spec())


# --- whose entries they are --------------------------------------------------------------------------


@pytest.mark.wide(every_run=2)
def test_all_slots_under_a_bidirectional_mask_are_the_forward_of_the_edited_sequence(model):
    config, params = model
    cache = settled(config, params, OLD)
    order = jnp.asarray([[3, 1, 0, 7, 5, 2, 4, 6], [7, 6, 5, 4, 3, 2, 1, 0]])
    shuffled = jnp.take_along_axis(EDITED, order, axis=1)
    scored, new = refresh(config, params, shuffled, cache, order, mask=BIDIRECTIONAL)
    whole = forward(config, params, EDITED, mask=BIDIRECTIONAL)
    close(scored.logits, jnp.take_along_axis(whole, order[:, :, None], axis=1))
    assert jax.tree.structure(new) == jax.tree.structure(cache)
    np.testing.assert_array_equal(new.length, cache.length)


@pytest.mark.wide(every_run=1)
def test_from_the_first_changed_token_on_the_cache_is_that_of_the_edited_sequence(model):
    config, params = model
    edited = jnp.concatenate([OLD[:, :3], EDITED[:, 3:]], axis=1)
    slots = jnp.broadcast_to(jnp.arange(3, SIZE), (2, SIZE - 3))
    scored, cache = refresh(config, params, edited[:, 3:], settled(config, params, OLD), slots)
    close(scored.logits, forward(config, params, edited)[:, 3:])
    whole = jnp.concatenate([edited, NEXT], axis=1)
    close(peek(config, params, NEXT, cache)[0][:, 0], forward(config, params, whole)[:, -1])


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    "mask",
    [
        CAUSAL,
        BIDIRECTIONAL,
        pytest.param(BlockCausal(3), marks=pytest.mark.sweep),
        pytest.param(Split(history=Sliding(before=2, after=1), window=CAUSAL), marks=pytest.mark.sweep),
    ],
    ids=["causal", "bidirectional", "blocks", "split"],
)
def test_some_tokens_see_of_the_others_what_was_kept(model, mask):
    """As if the old ones had never been, and the new ones came last, at the positions of the old ones."""
    config, params = model
    cache = settled(config, params, OLD)
    scored, new = refresh(config, params, EDITED[:, :3], cache, SLOTS, mask=mask)

    def forget(leaf):
        return leaf.at[jnp.arange(2)[:, None], SLOTS].set(EMPTY) if leaf.ndim == 2 else leaf

    without = dataclasses.replace(cache, layers=jax.tree.map(forget, cache.layers))
    full = with_cache_policy(config, FULL_CACHE) if attention_layers(config) else config
    expected, pending = peek(full, params, EDITED[:, :3], without, positions=SLOTS, mask=mask)
    close(scored.logits, expected)
    after, _ = peek(full, params, NEXT, commit(full, pending), positions=jnp.full((2, 1), SIZE))
    close(peek(full, params, NEXT, new)[0], after)


def test_against_the_definition():
    """Grouped queries, two layers, some entries stale: every matrix in full."""
    layers = [attention(), attention(sliding_window=3)]
    config = decoder(*layers)
    params = random_params(config.spec())
    cache = settled(config, params, OLD)
    scored, _ = refresh(config, params, EDITED[:, :3], cache, SLOTS, mask=BIDIRECTIONAL, logits_at=NOWHERE)
    for row in range(2):
        x = np.asarray(params["embed"]["weight"], np.float64)[EDITED[row, :3]]
        slots = np.asarray(SLOTS[row])
        for i, layer in enumerate(layers):
            weights, state = params["blocks"][str(i)], cache.layers[i]
            normed = np.asarray(RMSNorm(dim=16)(weights["mixer_norm"], x))
            q, k, v = (np.einsum("sd,nhd->snh", normed, weights["mixer"][f"w_{n}"]) for n in "qkv")
            q, k = (rotate(a, slots, layer.rope) for a in (q, k))
            keys, values = (np.array(a[row]).swapaxes(0, 1)[:SIZE] for a in (state.k, state.v))
            keys[slots], values[slots] = k, v
            keys, values = (np.repeat(a, 2, axis=1) for a in (keys, values))
            logits = np.einsum("snh,tnh->snt", q, keys) * layer.head_dim**-0.5
            if layer.sliding_window is not None:
                far = np.abs(slots[:, None] - np.arange(SIZE)) >= layer.sliding_window
                logits = np.where(far[:, None], -np.inf, logits)
            mixed = np.einsum("snt,tnh->snh", softmax_by_hand(logits), values)
            x = x + np.einsum("snh,dnh->sd", mixed, weights["mixer"]["w_o"])
            block = config.blocks[i]
            x = x + np.asarray(block.ffn(weights["ffn"], block.ffn_norm(weights["ffn_norm"], x)))
        close(scored.hidden[row], config.final_norm(params["final_norm"], x))


def test_positions_are_those_that_the_tokens_have():
    config = MODELS["attention"]
    params, positions = random_params(config.spec()), 3 * jnp.broadcast_to(jnp.arange(SIZE), (2, SIZE))
    logits, pending = peek(config, params, OLD, config.init_cache(2, CAPACITY), positions=positions)
    tokens = jnp.take_along_axis(OLD, SLOTS, axis=1)
    scored, cache = refresh(config, params, tokens, commit(config, pending), SLOTS)
    close(scored.logits, jnp.take_along_axis(logits, SLOTS[:, :, None], axis=1))
    moved, cache = refresh(config, params, tokens, cache, SLOTS, positions=SLOTS)
    np.testing.assert_array_equal(jnp.take_along_axis(cache.layers[1].positions, SLOTS, axis=1), SLOTS)
    assert np.abs(moved.logits - scored.logits).max() > 1e-3


@pytest.mark.sweep
def test_a_ring_recomputes_what_it_holds_with_all_that_it_sees():
    """Eleven slots, of which the newest four tokens have their reach of five; the others are left alone."""
    layers = [attention(sliding_window=reach, cache=RingCache(longest_peek=4)) for reach in (3, 5)]
    ring = decoder(*layers)
    full = decoder(*(attention(sliding_window=reach) for reach in (3, 5)))
    params = random_params(ring.spec())
    tokens = draw_tokens(2, 14, seed=3)
    caches = [settled(config, params, tokens, 20, part=2) for config in (ring, full)]
    slots = jnp.asarray([[12, 10, 3, 13], [11, 13, 0, 8]])
    real = jnp.asarray([[True, True, False, True], [True, True, False, False]])
    ours, cache = refresh(ring, params, EDITED[:, :4], caches[0], slots)
    expected, full_cache = refresh(full, params, EDITED[:, :4], caches[1], slots, valid=real)
    close(ours.logits[real], expected.logits[real])
    close(peek(ring, params, NEXT, cache)[0], peek(full, params, NEXT, full_cache)[0])


@pytest.mark.sweep
def test_a_history_that_is_encoded_anew_is_the_edited_one():
    config = dataclasses.replace(MODELS["attention"], recode_beyond=9)
    params = random_params(config.spec())
    edited = OLD.at[:, 2].set(EDITED[:, 2])
    cache = settled(config, params, OLD)
    _, cache = refresh(config, params, edited[:, 2:], cache, jnp.broadcast_to(jnp.arange(2, SIZE), (2, 6)))
    following = draw_tokens(2, 3, seed=8)
    ours, _ = peek(config, params, following, cache)
    close(ours, forward(config, params, jnp.concatenate([edited, following], axis=1))[:, SIZE:])


# --- what is left out --------------------------------------------------------------------------------


def test_slots_that_hold_nothing_and_slots_given_before_are_left_out():
    config = MODELS["attention"]
    params = random_params(config.spec())
    pending = peek(config, params, OLD, config.init_cache(2, CAPACITY))[1]
    cache = commit(config, pending, jnp.asarray([SIZE, 5]))
    slots = jnp.asarray([[3, -1, 3, CAPACITY, 40], [2, 6, 2, 0, 5]])
    real = jnp.asarray([[True, False, False, False, False], [True, False, False, True, False]])
    scored, new = refresh(config, params, EDITED[:, :5], cache, slots)
    expected, few = refresh(config, params, EDITED[:, :5], cache, slots, valid=real)
    np.testing.assert_array_equal(scored.logits[real], expected.logits[real])
    for ours, theirs in zip(jax.tree.leaves(new), jax.tree.leaves(few), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    close(peek(config, params, NEXT, new)[0], peek(config, params, NEXT, few)[0])


@pytest.mark.parametrize(
    ("slots", "arguments", "message"),
    [
        ([[0, 1], [2, CAPACITY]], {}, r"slots\[1, 1\] is 13, the cache has slots 0 to 12"),
        ([[0, -1], [2, 3]], {}, r"slots\[0, 1\] is -1, the cache has slots 0 to 12"),
        ([[0, 1], [4, 4]], {}, r"slots\[1, 0\] and slots\[1, 1\] are both 4"),
        ([[0, 1, 2], [4, 5, 6]], {}, r"slots must be int\[2, 2\], one per token, got int32\[2, 3\]"),
        ([[0.0, 1.0], [4.0, 5.0]], {}, r"slots must be int\[2, 2\], one per token, got float32\[2, 2\]"),
        ([[0, 1], [2, 3]], {"taps": ("blocks/9",)}, "the model has no 'blocks/9'"),
        ([[0, 1], [2, 3]], {"mask": jnp.ones((3, 3), bool)}, r"mask: expected bool\[2, 2\]"),
    ],
)
def test_what_does_not_fit_is_refused_before_compilation(slots, arguments, message):
    config = MODELS["attention"]
    params, cache = random_params(config.spec()), config.init_cache(2, CAPACITY)
    with pytest.raises(ValueError, match=message):
        config.refresh(params, OLD[:, :2], cache, jnp.asarray(slots), **arguments)


def test_slots_of_padding_are_not_looked_at():
    config = MODELS["attention"]
    params, cache = random_params(config.spec()), config.init_cache(2, CAPACITY)
    slots = jnp.asarray([[0, -1], [2, 2]])
    jax.eval_shape(lambda: config.refresh(params, OLD[:, :2], cache, slots, valid=jnp.asarray([1, 1])))
    with pytest.raises(ValueError, match=r"slots\[0, 1\] is -1"):
        config.refresh(params, OLD[:, :2], cache, slots, valid=jnp.asarray([2, 1]))


@pytest.mark.parametrize(
    ("mixer", "message"),
    [
        (ssd(), "layer 1 is a SSDMixer, which keeps one state for all tokens.*peek them again"),
        (attention(cache=SinkCache()), "the cache policy SinkCache evicts tokens"),
        (attention(cache=LServe()), "the cache policy LServe evicts tokens or keeps sums"),
        (attention(cache=D2O(budget=8, recent=2)), "the cache policy D2O evicts"),
        (attention(cache=InfiniPotV(budget=600, keep=8, recent=2)), "the cache policy InfiniPotV evicts"),
    ],
)
def test_layers_without_entries_of_single_tokens_are_refused_by_name(mixer, message):
    config = decoder(attention(), mixer)
    cache = jax.eval_shape(functools.partial(config.init_cache, 2, CAPACITY))
    tokens = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(config.refresh, abstract_params(config.spec()), tokens, cache, tokens)


def test_a_branch_without_entries_is_refused_too():
    config = ARCHITECTURES["parallel"]
    cache = jax.eval_shape(functools.partial(config.init_cache, 2, CAPACITY))
    tokens = jax.ShapeDtypeStruct((2, 3), jnp.int32)
    with pytest.raises(ValueError, match="layer 0 is a SSDMixer"):
        jax.eval_shape(config.refresh, abstract_params(config.spec()), tokens, cache, tokens)


# --- what XLA makes of it ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["attention", "latent"])
def test_it_works_in_the_caches_own_buffers(name):
    config, temporary = MODELS[name], []
    params = abstract_params(config.spec())
    tokens = jax.ShapeDtypeStruct((2, 4), jnp.int32)
    for capacity in (1024, 8192):
        cache = jax.eval_shape(functools.partial(config.init_cache, 2, capacity))
        lowered = jax.jit(config.refresh, donate_argnums=2).lower(params, tokens, cache, tokens)
        memory = lowered.compile().memory_analysis()
        held = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(cache))
        assert memory.alias_size_in_bytes >= held
        temporary.append(memory.temp_size_in_bytes)
    # Positions and masks may grow, by slot and window token; keys and values may not.
    assert temporary[1] - temporary[0] <= 2 * 2 * 4 * 16 * (8192 - 1024)
