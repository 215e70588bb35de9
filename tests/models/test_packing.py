"""Tokens that are real wherever they lie in a window: prompts padded on the left, and with gaps."""

import jax
import numpy as np
import pytest
from model_helpers import (
    ARCHITECTURES,
    VOCAB,
    commit,
    draw_tokens,
    forward,
    peek,
    peek_scored,
    quick_jit,
    random_params,
)
from strategy_helpers import in_tiers

from jaxmodels.layers.masks import BIDIRECTIONAL
from jaxmodels.layers.spec import abstract_params
from jaxmodels.models.decoder import Decoder

SIZE, CAPACITY, HISTORY = 7, 16, 3
# Row 0 is padded on the left; row 1 has padding on both sides and in between.
VALID = np.array([[0, 0, 1, 1, 1, 1, 1], [0, 1, 1, 0, 1, 1, 0]], bool)
COUNTS = VALID.sum(1).astype(np.int32)
# Of each row's real tokens, and two of their branches.
PARENTS = ({2: None, 3: 2, 4: 2, 5: 3, 6: 4}, {1: None, 2: 1, 4: 1, 5: 2})
PATHS = np.array([[2, 3, 5], [1, 2, 5]], np.int32)
BEFORE, TOKENS, NEXT = (draw_tokens(2, size, seed=i) for i, size in enumerate((HISTORY, SIZE, 1)))
ESSENTIAL = ("attention", "ssd", "hybrid")
OTHERS = ("hybrid_moe", "latent", "sharing", "rglru", "delta")


def in_front(a):
    """[B, S, ...] with the real entries of each row first."""
    return np.stack([np.concatenate([row[v], row[~v]]) for row, v in zip(np.asarray(a), VALID, strict=True)])


def close(ours, expected):
    np.testing.assert_allclose(ours, expected, rtol=2e-4, atol=2e-4)


@pytest.fixture(scope="module", params=in_tiers(ESSENTIAL, OTHERS))
def model(request):
    config = ARCHITECTURES[request.param]
    params = random_params(config.spec())
    history = commit(config, peek(config, params, BEFORE, config.init_cache(2, CAPACITY))[1])
    return config, params, history


@pytest.mark.sweep
def test_padding_may_stand_anywhere(model):
    config, params, history = model
    ours, pending = peek_scored(config, params, TOKENS, history, valid=VALID)
    expected, packed = peek_scored(config, params, in_front(TOKENS), history, valid=COUNTS)
    for name in ("logits", "hidden"):
        for row, n in enumerate(COUNTS):
            close(in_front(getattr(ours, name))[row, :n], getattr(expected, name)[row, :n])
    np.testing.assert_array_equal(pending.valid, COUNTS)
    for arguments in ((), (np.array([2, 3], np.int32),)):
        after, like = (commit(config, p, *arguments) for p in (pending, packed))
        np.testing.assert_array_equal(after.length, like.length)
        close(peek(config, params, NEXT, after)[0], peek(config, params, NEXT, like)[0])


@pytest.mark.wide(every_run=1)
def test_a_tree_is_described_by_the_callers_places(model):
    config, params, history = model
    tree, positions = np.tile(np.eye(SIZE, dtype=bool), (2, 1, 1)), np.zeros((2, SIZE), np.int32)
    for row, parents in enumerate(PARENTS):
        for place, parent in parents.items():
            if parent is not None:
                tree[row, place] |= tree[row, parent]
            positions[row, place] = HISTORY - 1 + tree[row, place].sum()
    ours, pending = peek(config, params, TOKENS, history, valid=VALID, mask=tree, positions=positions)
    chain = np.take_along_axis(np.asarray(TOKENS), PATHS, axis=1)
    expected, chained = peek(config, params, chain, history)
    close(np.take_along_axis(np.asarray(ours), PATHS[:, :, None], axis=1), expected)
    for n in (np.array([3, 2], np.int32), None):
        after, like = commit(config, pending, n, PATHS), commit(config, chained, n)
        np.testing.assert_array_equal(after.length, like.length)
        close(peek(config, params, NEXT, after)[0], peek(config, params, NEXT, like)[0])


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", ["hybrid_moe", "latent"])
def test_whole_sequences_padded_anywhere(name):
    config = ARCHITECTURES[name]
    params, run = random_params(config.spec()), quick_jit(Decoder.forward_with_routing, static_argnums=0)
    ours, routing = run(config, params, TOKENS, valid=VALID)
    expected, packed = run(config, params, in_front(TOKENS), valid=COUNTS)
    found, wanted = jax.tree.leaves((ours, routing)), jax.tree.leaves((expected, packed))
    for a, b in zip(found, wanted, strict=True):
        for row, n in enumerate(COUNTS):
            close(in_front(a)[row, :n], b[row, :n])
    close(forward(config, params, TOKENS, valid=VALID)[:, 4], ours[:, 4])


def test_a_prompt_padded_on_the_left_sees_itself_both_ways():
    config = ARCHITECTURES["sliding"]
    params, valid = random_params(config.spec()), np.arange(SIZE) >= np.array([[2], [0]])
    ours = quick_jit(lambda p: config.forward(p, TOKENS, valid=valid, mask=BIDIRECTIONAL))(params)
    alone = quick_jit(lambda p: config.forward(p, TOKENS[:1, 2:], mask=BIDIRECTIONAL))(params)
    close(ours[0, 2:], alone[0])


def test_logits_and_taps_are_asked_for_by_the_callers_places():
    config = ARCHITECTURES["hybrid"]
    params, cache = random_params(config.spec()), config.init_cache(2, CAPACITY)
    embedded = config.embeddings(params, TOKENS)
    at = np.array([[6, 2], [4, 1]], np.int32)
    whole, _ = peek(config, params, TOKENS, cache, valid=VALID)
    asked = {"logits_at": at, "taps": ("embeddings",)}
    ours, _ = peek_scored(config, params, embedded, cache, valid=VALID, **asked)
    close(ours.logits, np.take_along_axis(np.asarray(whole), at[:, :, None], axis=1))
    close(ours.taps["embeddings"], np.where(VALID[:, :, None], embedded, 0))
    assert ours.logits.shape == (2, 2, VOCAB)


@pytest.mark.parametrize(
    ("valid", "got"),
    [
        (np.ones(3, np.int32), r"int32\[3\]"),
        (np.ones(2, bool), r"bool\[2\]"),
        (np.ones((2, 4), bool), r"bool\[2, 4\]"),
        (np.ones((2, SIZE), np.int32), r"int32\[2, 7\]"),
        (np.ones(2, np.float32), r"float32\[2\]"),
        (3, r"<class 'int'>\[\]"),
    ],
)
def test_a_valid_of_another_window_is_refused(valid, got):
    config = ARCHITECTURES["ssd"]
    params, cache = abstract_params(config.spec()), config.init_cache(2, CAPACITY)
    message = r"valid: expected i32\[2\], how many .*, or bool\[2, 7\], which tokens are, got " + got
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p: config.forward(p, TOKENS, valid=valid), params)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda p: config.peek(p, TOKENS, cache, valid=valid), params)
