"""A history is encoded anew once, and the logits are those of the whole sequence, whatever led there."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from configurations.dense import PHI3
from model_helpers import (
    ATTENTION,
    commit,
    decoder,
    draw_tokens,
    forward,
    peek,
    random_params,
    ssd,
)
from strategy_helpers import decode, nearby, ready

import jaxmodels as jm
from jaxmodels.decoding import Autoregressive, Draft, EarlyExit, Jacobi, Speculative, driver
from jaxmodels.decoding.generation import stream
from jaxmodels.layers.cache.ring import RingCache
from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.rope_scaling import LongRopeScaling

LIMIT, NEW = 10, 24
SCALING = LongRopeScaling(
    short_factor=(1.0, 1.5, 2.0),
    long_factor=(4.0, 5.0, 9.0),
    original_max_position_embeddings=LIMIT,
    factor=4.0,
)
longrope = dataclasses.replace(ATTENTION, rope=Rope(rotary_dim=6, theta=50.0, scaling=SCALING))
ring = dataclasses.replace(longrope, sliding_window=7, cache=RingCache(longest_peek=4))


def crossing(*mixers):
    return dataclasses.replace(decoder(*mixers), recode_beyond=LIMIT)


MODELS = {
    "full": crossing(longrope, longrope),
    "ring": crossing(longrope, ring),
    "recurrent": crossing(longrope, ssd(), longrope),
}


# --- windows -----------------------------------------------------------------------------------------


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("sizes", [(4, 4, 2, 1, 3, 4), (1, 3, 4, 4, 4)], ids=["at_once", "over_it"])
@pytest.mark.parametrize("name", MODELS)
def test_any_split_into_windows_gives_the_logits_of_the_sequence_so_far(name, sizes):
    """The first sizes reach the limit exactly, the others leap over it; one row stays behind the other."""
    config = MODELS[name]
    params, tokens = random_params(config.spec()), np.asarray(draw_tokens(2, sum(sizes)))
    cache, ends = config.init_cache(2, 40), np.zeros(2, int)
    for i, size in enumerate(sizes):
        valid = np.asarray([size, 1 if i == 1 else size])
        shown = [np.resize(row[end : end + 4], 4) for row, end in zip(tokens, ends, strict=True)]
        logits, pending = peek(
            config, params, jnp.asarray(np.stack(shown)), cache, valid=jnp.asarray(valid, jnp.int32)
        )
        cache, ends = commit(config, pending), ends + valid
        whole = forward(config, params, jnp.asarray(tokens), valid=jnp.asarray(ends, jnp.int32))
        for row in range(2):
            np.testing.assert_allclose(logits[row, valid[row] - 1], whole[row, ends[row] - 1], atol=2e-5)
    assert cache.transcript.extended.all()


@pytest.mark.sweep
def test_a_full_row_does_not_suffer_from_another_one_that_crosses():
    config = MODELS["full"]
    params, tokens = random_params(config.spec()), draw_tokens(2, 20)
    lengths = jnp.asarray([19, LIMIT])
    _, pending = peek(config, params, tokens[:, :-1], config.init_cache(2, 20), valid=lengths)
    cache = commit(config, pending)
    newest = jnp.take_along_axis(tokens, lengths[:, None], axis=1)
    logits, _ = peek(config, params, newest, cache)
    whole = forward(config, params, tokens, valid=lengths + 1)
    for row, length in enumerate(lengths.tolist()):
        np.testing.assert_allclose(logits[row, 0], whole[row, length], atol=2e-5)


@pytest.mark.sweep
def test_draft_tokens_wait_where_the_history_is_short():
    """Tokens up to the limit are scored as parts of a short sequence, those behind it are not real yet."""
    config = MODELS["full"]
    params, tokens = random_params(config.spec()), draw_tokens(2, 12)
    _, pending = peek(config, params, tokens[:, :8], config.init_cache(2, 40))
    cache = commit(config, pending)
    logits, pending = peek(config, params, tokens[:, 8:], cache, known=cache.length + jnp.asarray([1, 3]))
    assert pending.valid.tolist() == [2, 4]
    for row, size in enumerate((10, 12)):
        expected = forward(config, params, tokens[:, :size])[row, 8:]
        np.testing.assert_allclose(logits[row, : size - 8], expected, atol=2e-5)


@pytest.mark.sweep
def test_the_history_is_what_was_accepted_along_paths():
    config = MODELS["full"]
    params, tokens = random_params(config.spec()), draw_tokens(1, 11)
    _, pending = peek(config, params, tokens[:, :7], config.init_cache(1, 40))
    # The next tokens at nodes 0, 2 and 4 of a tree whose other nodes are siblings.
    window = jnp.zeros((1, 5), jnp.int32).at[:, ::2].set(tokens[:, 7:10])
    positions = jnp.asarray([[7, 8, 8, 9, 9]])
    mask = jnp.asarray(
        [[1, 0, 0, 0, 0], [1, 1, 0, 0, 0], [1, 0, 1, 0, 0], [1, 1, 0, 1, 0], [1, 0, 1, 0, 1]], bool
    )
    cache = commit(config, pending)
    _, pending = peek(config, params, window, cache, positions=positions, mask=mask, known=cache.length + 1)
    cache = commit(config, pending, jnp.asarray([3]), path=jnp.asarray([[0, 2, 4]]))
    logits, _ = peek(config, params, tokens[:, 10:], cache)
    np.testing.assert_allclose(logits[:, -1], forward(config, params, tokens)[:, -1], atol=2e-5)


def test_a_window_that_sees_both_ways_is_refused():
    config = MODELS["full"]
    params, tokens = random_params(config.spec()), draw_tokens(1, 4)

    def shape(capacity):
        cache = config.init_cache(1, capacity)
        return jax.eval_shape(lambda: config.peek(params, tokens, cache, mask=BIDIRECTIONAL)[0].logits).shape

    assert shape(LIMIT)[:2] == (1, 4)
    with pytest.raises(ValueError, match="mask=Bidirectional needs a cache of at most 10 tokens"):
        shape(LIMIT + 1)


def test_a_limit_of_no_tokens_is_refused():
    with pytest.raises(ValueError, match="recode_beyond must be at least 1 or None, got 0"):
        dataclasses.replace(MODELS["full"], recode_beyond=0)


# --- the programs ------------------------------------------------------------------------------------


def lowered_step(config, capacity):
    made = ready(config, random_params(config.spec()), Autoregressive(), [[1, 2, 3]], 4)
    carry = driver.start(
        random_params(config.spec()), made.request, config.init_cache(1, capacity), Autoregressive(),
        config=config, max_new=made.new_slots,
    )  # fmt: skip
    params, steps = random_params(config.spec()), jnp.ones((), jnp.int32)
    return driver.advance.lower(params, made.request, carry, Autoregressive(), steps, config=config).as_text()


@pytest.mark.sweep
def test_only_a_cache_that_can_outgrow_the_limit_has_anything_of_it():
    config = dataclasses.replace(MODELS["full"], recode_beyond=32)
    plain = dataclasses.replace(config, recode_beyond=None)
    assert plain.init_cache(1, 1000).transcript is config.init_cache(1, 32).transcript is None
    assert lowered_step(config, 32) == lowered_step(plain, 32)
    transcript = config.init_cache(1, 33).transcript
    assert transcript.tokens.shape == config.init_cache(1, 33).layers[0].positions.shape == (1, 33)
    assert lowered_step(config, 33).count("stablehlo.while") > lowered_step(plain, 33).count(
        "stablehlo.while"
    )


def test_a_row_is_encoded_anew_once():
    """Between steps, the keys of a row's history change where it crosses, and nowhere else."""
    config = MODELS["full"]
    params, prompts = random_params(config.spec()), [[1, 2, 3], [4] * 9, [5] * 10, [6] * 12]
    made = ready(config, params, Autoregressive(), prompts, 12)
    carry = driver.start(params, made.request, made.cache, Autoregressive(), config=config, max_new=16)
    compiled, crossed = driver.advance.count(), []
    for _ in range(11):
        length, before = np.asarray(carry.cache.length), np.asarray(carry.cache.layers[1].k)
        carry = driver.advance(
            params, made.request, carry, Autoregressive(), jnp.ones((), jnp.int32), config=config
        )
        after = np.asarray(carry.cache.layers[1].k)
        crossed.append([(before[b, :, :n] != after[b, :, :n]).any() for b, n in enumerate(length.tolist())])
    steps = [np.flatnonzero(row).tolist() for row in np.transpose(crossed)]
    assert steps == [[7], [1], [0], []]
    assert driver.advance.count() == compiled + 1


# --- against transformers ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def phi3(build_reference):
    """(model, reference): prompts below, at and beyond the original length, and one too short to reach it."""
    reference = build_reference(PHI3[2])
    return jm.load(reference.directory), reference


def assert_generates(phi3, strategy, rows=slice(None)):
    model, reference = phi3
    ours = decode(model.config, model.params, strategy, reference.prompts[rows], NEW)
    np.testing.assert_array_equal(ours.tokens[:, :NEW], reference.continuations[rows, :NEW])
    return ours


def test_prompts_lie_around_the_original_length(phi3):
    model, reference = phi3
    assert model.config.recode_beyond == 40
    lengths = [len(prompt) for prompt in reference.prompts]
    assert lengths == [8, 33, 39, 40, 41, 70]
    assert lengths[0] + NEW <= 40 < lengths[1] + NEW


@pytest.mark.sweep
def test_rows_cross_on_their_own(phi3):
    """The longest prompts are fed in windows, of which the first ends before the original length."""
    assert_generates(phi3, Autoregressive(prefill_window=16))


@pytest.mark.parametrize(
    "rows", [slice(i, i + 1) for i in range(1, 6)], ids=["below", "one_below", "at", "one_above", "above"]
)
@pytest.mark.sweep
def test_a_row_alone_crosses(phi3, rows):
    assert_generates(phi3, Autoregressive(), rows)


@pytest.mark.sweep
def test_drafts_cross_too(phi3):
    """The model drafts for itself: all is accepted, across the limit too, but for what has to wait there."""
    model, _ = phi3
    ours = assert_generates(phi3, Speculative(draft=Draft(model.config, model.params), gamma=4))
    assert (ours.counters["calls"][:6] <= -(-(NEW - 1) // 5) + 1).all()


@pytest.mark.sweep
@pytest.mark.parametrize(
    "strategy", [Jacobi(window=8), EarlyExit(threshold=1.1)], ids=["Jacobi", "EarlyExit"]
)
def test_other_strategies_cross(phi3, strategy):
    assert_generates(phi3, strategy)


@pytest.mark.sweep
def test_a_draft_that_never_crosses_still_drafts(phi3):
    model, _ = phi3
    config = dataclasses.replace(model.config, recode_beyond=None)
    draft = Draft(config, nearby(model.params, 0.02))
    ours = assert_generates(phi3, Speculative(draft=draft, gamma=4))
    assert (ours.counters["accepted"] > 0).all()


@pytest.mark.sweep
def test_streaming_crosses(phi3):
    model, reference = phi3
    made = ready(model.config, model.params, Autoregressive(), reference.prompts[1:3], NEW)
    *_, last = stream(model.config, model.params, Autoregressive(), made, 5)
    np.testing.assert_array_equal(last.tokens, reference.continuations[1:3, :NEW])
