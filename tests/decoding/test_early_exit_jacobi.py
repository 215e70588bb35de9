"""Jacobi iteration that leaves its blocks early: what it outputs, written out, and where it is exact."""

import numpy as np
import pytest
from greedy_model import agreement, next_tokens
from strategy_helpers import NEW, PROMPTS, architecture, assert_same_generation, decode, expected, stop_inside

from jaxmodels.decoding import Autoregressive, EarlyExitJacobi
from jaxmodels.decoding.processors import RepetitionPenalty

STRATEGY = EarlyExitJacobi(window=4, iterations=2, top_logprobs=2)


def answer_of(choose, prompt, first_token):
    """(tokens, calls) of the iteration with lists."""
    new, draft, passes, calls = [first_token], [first_token] * (STRATEGY.window - 1), 0, 0
    while len(new) < NEW:
        count, said = agreement(choose, [*prompt, *new], draft)
        passes, calls = passes + 1, calls + 1
        if passes == STRATEGY.iterations:
            count = len(draft)
        new += [*draft[:count], said[count]]
        following = said[count + 1 :] or said[-1:]
        rest = len(draft) - count - 1
        if rest < 1:
            rest, passes = STRATEGY.window - 1, 0
        draft = (following + following[-1:] * rest)[:rest]
    return new[:NEW], calls


@pytest.mark.parametrize("name", ["attention", pytest.param("hybrid", marks=pytest.mark.sweep)])
def test_blocks_are_left_after_so_many_passes(name):
    config, params = architecture(name)
    choose = next_tokens(config, params, max(map(len, PROMPTS)) + NEW + 2 * STRATEGY.window)
    ours = decode(config, params, STRATEGY)
    assert (ours.tokens[:, :NEW] != expected(name).tokens[:, :NEW]).any()
    for b, prompt in enumerate(PROMPTS):
        tokens, calls = answer_of(choose, prompt, int(ours.tokens[b, 0]))
        assert ours.tokens[b, :NEW].tolist() == tokens
        assert ours.counters["calls"][b] == calls
        # two passes bring a whole window and the token behind it
        assert calls <= 2 * -(-NEW // STRATEGY.window)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", ["attention", "delta"])
def test_blocks_that_have_time_to_converge_are_exact(name):
    strategy = EarlyExitJacobi(window=4, iterations=4, top_logprobs=2)
    config, params = architecture(name)
    plain = expected(name)
    assert_same_generation(decode(config, params, strategy), plain)
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.sweep
def test_processors_are_asked_for_every_draft_token():
    config, params = architecture("attention")
    penalty = (RepetitionPenalty(1.5),)
    plain = decode(config, params, Autoregressive(processors=penalty))
    ours = decode(config, params, EarlyExitJacobi(window=4, iterations=4, processors=penalty))
    np.testing.assert_array_equal(ours.tokens, plain.tokens)


@pytest.mark.parametrize(("name", "value"), [("window", 1), ("iterations", 0)])
def test_values_outside_their_range_are_refused(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a whole number >= .*, got {value}"):
        EarlyExitJacobi(**{name: value})
