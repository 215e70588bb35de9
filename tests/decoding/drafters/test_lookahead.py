"""Lookahead: where its window's tokens stand, its rounds as an iteration written out, and equality."""

import jax.numpy as jnp
import numpy as np
import pytest
from greedy_model import agreement, next_tokens
from step_enumeration import assert_exact_step, tiny
from strategy_helpers import (
    NEW,
    PROMPTS,
    architecture,
    assert_same_generation,
    decode,
    expected,
    in_tiers,
    stop_inside,
)

from jaxmodels.decoding import Lookahead, Speculative
from jaxmodels.decoding.drafters.lookahead import NO_KEY, _latest, layout
from jaxmodels.decoding.trees import depths, fixed_tree

DRAFTER = Lookahead(window=3, levels=4, guesses=2, pool=6)
STRATEGY = Speculative(draft=DRAFTER, top_logprobs=2)
OTHERS = ["hybrid", "ssd", "delta", "latent", "ring"]


def test_positions_and_mask_are_those_of_the_published_window():
    window, levels, guesses = 4, 5, 3
    at = layout(window, levels, guesses)
    ancestors = np.asarray(fixed_tree(at.parents, 1).ancestors()[0])
    positions = np.asarray(depths(ancestors))
    cells = {(level, i): at.levels[level, i] for level in range(levels - 1) for i in range(window)}
    tried = {(guess, k): at.guesses[guess, k] for guess in range(guesses) for k in range(levels - 1)}
    # every window token is one cell or one token of an n-gram, and nearer ones stand first
    assert sorted([*cells.values(), *tried.values()]) == list(range(len(positions)))
    assert (np.diff(positions) >= 0).all()
    for (level, i), index in cells.items():
        assert positions[index] == level + i
        seen = {cells[0, j] for j in range(i + 1)} | {cells[k, i] for k in range(1, level + 1)}
        assert set(np.flatnonzero(ancestors[index])) == seen
    for (guess, k), index in tried.items():
        assert positions[index] == k + 1
        assert set(np.flatnonzero(ancestors[index])) == {0, *(tried[guess, j] for j in range(k + 1))}


def test_the_pool_keeps_each_of_the_latest_once():
    keys, grams = jnp.array([NO_KEY, 5, 7, 5]), jnp.array([[0, 0], [1, 2], [1, 2], [3, 4]])
    keys, grams = _latest(keys, grams, jnp.array([5, 9]), jnp.array([[1, 2], [6, 6]]))
    assert keys.tolist() == [7, 5, 5, 9]
    assert grams.tolist() == [[1, 2], [3, 4], [1, 2], [6, 6]]
    keys, _ = _latest(keys, grams, jnp.array([8, 8]), jnp.array([[1, 1], [1, 1]]))
    assert keys.tolist() == [5, 9, NO_KEY, 8]


def rounds_of(choose, prompt, first_token):
    """(calls, accepted tokens) of the iteration with lists."""
    ahead, width = DRAFTER.levels - 2, DRAFTER.window
    filling = [prompt[i % len(prompt)] for i in range(width - 1 + ahead * width)]
    first, columns = filling[: width - 1], np.reshape(filling[width - 1 :], (ahead, width)).tolist()
    pool, history, new, calls, accepted = [], [*prompt, first_token], [first_token], 0, 0
    while len(new) < NEW:
        fitting = [gram for key, gram in pool[::-1] if key == history[-1]][: DRAFTER.guesses]
        fitting += [[history[-1]] * (ahead + 1)] * (DRAFTER.guesses - len(fitting))
        ways = [first[:i] + [level[i] for level in columns] for i in range(width)]
        count, said = max(
            (agreement(choose, history, draft) for draft in [*ways, *fitting]), key=lambda x: x[0]
        )
        behind = choose([history + way for way in ways])
        if calls >= ahead:
            keys = [history[-1], *first]
            for i in range(width):
                entry = (keys[i], [level[i] for level in columns] + [behind[i]])
                pool = [*(other for other in pool if other != entry), entry]
            pool = pool[-DRAFTER.pool :]
        first, columns = columns[0][1:], [*columns[1:], behind]
        accepted += min(count, NEW - len(new))
        new += said[: count + 1]
        history += said[: count + 1]
        calls += 1
    return calls, accepted


@pytest.mark.parametrize("name", ["attention", pytest.param("hybrid", marks=pytest.mark.sweep)])
def test_rounds_are_those_of_the_iteration(name):
    config, params = architecture(name)
    choose = next_tokens(config, params, max(map(len, PROMPTS)) + NEW + 12)
    ours = decode(config, params, STRATEGY)
    for b, prompt in enumerate(PROMPTS):
        calls, accepted = rounds_of(choose, prompt, int(ours.tokens[b, 0]))
        assert (ours.counters["calls"][b], ours.counters["accepted"][b]) == (calls, accepted)
    assert ours.counters["accepted"].sum() > 0


@pytest.mark.parametrize("name", in_tiers(["attention"], OTHERS))
def test_greedy_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    plain = expected(name)
    assert_same_generation(decode(config, params, STRATEGY), plain)
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, STRATEGY, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.sweep
def test_a_sampled_step_has_the_models_joint_distribution():
    strategy = Speculative(draft=Lookahead(window=1, levels=3, guesses=1, pool=1))
    assert_exact_step(*tiny("attention", 0), strategy, levels=0, kept=[0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 0}, "window must be a whole number >= 1 .*, got 0"),
        ({"levels": 2}, "levels must be a whole number >= 3 .*, got 2"),
        ({"guesses": 0}, "guesses must be a whole number >= 1 .*, got 0"),
        ({"window": 9, "pool": 8}, "pool must be a whole number >= 15 .*, got 8"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Lookahead(**arguments)
