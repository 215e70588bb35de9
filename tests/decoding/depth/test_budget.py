"""Depth by position: each token is read in as many blocks as its position has."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import ARCHITECTURES, commit, draw_tokens, peek, random_params
from strategy_helpers import PROMPTS, architecture, decode

from jaxmodels.decoding import AdaptiveDepth
from jaxmodels.decoding.depth import Budget, Plan, linear_budget
from jaxmodels.layers.spec import abstract_params

CONFIG = ARCHITECTURES["hybrid"]
PARAMS = random_params(CONFIG.spec())
TOKENS = draw_tokens(2, 8)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("unread", ["hold", "propagate"])
def test_a_budget_is_a_plan_for_each_position(unread):
    """Token by token, each by the plan of its position: the first block, and the last as far as they go."""
    budget = Budget(blocks=np.asarray([3, 3, 3, 2, 2, 1]), unread=unread)
    plans = [Plan(p, unread) for p in ((1, 1, 1),) * 3 + ((1, 0, 1),) * 2 + ((1, 0, 0),) * 3]
    ours, theirs = CONFIG.init_cache(2, 9), CONFIG.init_cache(2, 9)
    for i, plan in enumerate(plans):
        found, pending = peek(CONFIG, PARAMS, TOKENS[:, i : i + 1], ours, depth=budget)
        wanted, planned = peek(CONFIG, PARAMS, TOKENS[:, i : i + 1], theirs, depth=plan)
        np.testing.assert_allclose(found, wanted, atol=1e-5)
        assert (pending.depth == sum(plan.passes)).all()
        ours, theirs = commit(CONFIG, pending), commit(CONFIG, planned)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["hybrid", "hybrid_moe"])
def test_the_tokens_of_one_window_have_depths_of_their_own(name):
    """What is propagated depends on each token's own stream, so that windows may be cut anywhere."""
    config = ARCHITECTURES[name]
    params = random_params(config.spec())
    budget = Budget(blocks=linear_budget(3, 1, 8), unread="propagate")
    assert linear_budget(3, 1, 8).tolist() == [3, 3, 2, 2, 2, 2, 1, 1]
    whole, pending = peek(config, params, TOKENS, config.init_cache(2, 9), depth=budget)
    assert pending.depth.tolist() == [[3, 3, 2, 2, 2, 2, 1, 1]] * 2
    cache, parts = config.init_cache(2, 9), []
    for start, stop in ((0, 3), (3, 4), (4, 8)):
        logits, pending = peek(config, params, TOKENS[:, start:stop], cache, depth=budget)
        cache = commit(config, pending)
        parts.append(logits)
    np.testing.assert_allclose(np.concatenate(parts, 1), whole, atol=1e-5)


@pytest.mark.sweep
def test_rows_of_different_lengths_go_by_their_own_positions():
    config, params = architecture("hybrid")
    strategy = AdaptiveDepth(depth=Budget(blocks=linear_budget(3, 1, 12)))
    ours = decode(config, params, strategy)
    for row in (0, 2):
        alone = decode(config, params, strategy, PROMPTS[row : row + 1])
        np.testing.assert_array_equal(ours.tokens[row], alone.tokens[0])
        assert ours.counters["layers"][row] == alone.counters["layers"][0]


@pytest.mark.wide(every_run=2)
@pytest.mark.parametrize("counted", [None, (2, 3)])
@pytest.mark.parametrize("last", [1, 0], ids=["attention", "mamba2"])
def test_what_is_held_in_one_row_is_written_in_the_other(last, counted):
    """Row 0 is past its full depth and row 1 is not: the last block keeps the window in row 1 alone."""
    ssd, attention, _ = CONFIG.blocks
    config = dataclasses.replace(CONFIG, blocks=(ssd, attention, (ssd, attention)[last]))
    params = random_params(config.spec())
    warm = Budget(blocks=np.asarray([3, 3, 3, 3, 2]), warm_up=2)
    cache = config.init_cache(2, 9)
    _, pending = peek(config, params, TOKENS[:, :4], cache, valid=jnp.asarray([4, 1]))
    cache = commit(config, pending)
    n = None if counted is None else jnp.asarray(counted)
    window = TOKENS[:, 4:7]
    by_depth = commit(config, peek(config, params, window, cache, depth=warm)[1], n).layers[2]
    padded = jnp.asarray([0, 3])
    taken = padded if n is None else jnp.where(jnp.arange(2) == 0, 0, n)
    in_full = commit(config, peek(config, params, window, cache, valid=taken)[1]).layers[2]
    if last:
        np.testing.assert_array_equal(by_depth.positions, in_full.positions)
        np.testing.assert_array_equal(by_depth.positions[0, 4:], -1)
    else:
        for ours, theirs in zip(jax.tree.leaves(by_depth), jax.tree.leaves(in_full), strict=True):
            np.testing.assert_allclose(ours[0], theirs[0], atol=1e-6)
            np.testing.assert_allclose(ours[1], theirs[1], atol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(blocks=np.asarray([2, 0])), "blocks must be at least 1 at every position, got 0"),
        (lambda: Budget(blocks=np.ones((2, 2), int)), r"blocks must be whole numbers \[P\]"),
        (lambda: Budget(blocks=np.asarray([1]), warm_up=0), "warm_up must be a whole number >= 1"),
        (lambda: Budget(blocks=np.asarray([1]), unread="x"), "unread must be one of .*, got 'x'"),
        (lambda: linear_budget(3, 0, 5), "least must be a whole number >= 1"),
        (lambda: AdaptiveDepth(depth=Plan), r"depth must be one such as Plan"),
    ],
)
def test_values_outside_their_range_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_a_warm_up_of_another_model_is_refused_before_compilation():
    depth, cache = Budget(blocks=np.asarray([1]), warm_up=4), CONFIG.init_cache(2, 9)
    with pytest.raises(ValueError, match="warm_up=4 exceeds the model's 3 layers"):
        jax.eval_shape(lambda p: CONFIG.peek(p, TOKENS, cache, depth=depth), abstract_params(CONFIG.spec()))
