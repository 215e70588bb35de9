"""Jacobi decoding is greedy decoding, in the number of steps that a slow fixed-point iteration takes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import attention, decoder, quick_jit, random_params
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from strategy_helpers import (
    NEW,
    PROMPTS,
    TWO_IN_EVERY_RUN,
    architecture,
    assert_same_generation,
    decode,
    expected,
    in_tiers,
    ready,
    stop_inside,
)

from jaxmodels.decoding import Autoregressive, Jacobi, Sample, driver
from jaxmodels.decoding.processors import FrequencyPenalty, RepetitionPenalty
from jaxmodels.layers.rope import Rope
from jaxmodels.layers.rope_scaling import DynamicNTKScaling, LongRopeScaling

STRATEGY = Jacobi(window=5, top_logprobs=2)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", TWO_IN_EVERY_RUN)
def test_it_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    plain = expected(name)
    ours = decode(config, params, STRATEGY)
    assert_same_generation(ours, plain)
    assert ours.steps <= plain.steps
    stop = stop_inside(plain.tokens)
    stopped = decode(config, params, STRATEGY, stop=[stop])
    assert_same_generation(stopped, expected(name, stop=(stop,)))
    assert stopped.lengths.min() < NEW


@pytest.mark.parametrize("name", in_tiers(["attention"], ["hybrid"]))
def test_a_row_alone_gives_what_it_gives_in_a_batch(name):
    ours = decode(*architecture(name), STRATEGY, PROMPTS[2:3])
    assert_same_generation(ours, expected(name), row=2)


@pytest.mark.sweep
@pytest.mark.parametrize(
    "scaling",
    [
        DynamicNTKScaling(factor=4.0, max_position_embeddings=8),
        LongRopeScaling(
            short_factor=(1.0, 1.5, 2.0),
            long_factor=(4.0, 5.0, 9.0),
            original_max_position_embeddings=8,
            factor=4.0,
        ),
    ],
    ids=["dynamic", "longrope"],
)
def test_a_draft_token_is_rotated_as_when_its_turn_has_come(scaling):
    """Where keys keep the rotations of the length at which they were written."""
    layer = attention(rope=Rope(rotary_dim=6, theta=50.0, scaling=scaling))
    config = decoder(layer, layer)
    params = random_params(config.spec())
    plain = decode(config, params, Autoregressive(top_logprobs=2))
    ours = decode(config, params, STRATEGY)
    assert ours.counters["accepted"].sum() > 0
    assert_same_generation(ours, plain)
    fed = decode(config, params, Autoregressive(top_logprobs=2, prefill_window=4))
    assert_same_generation(fed, plain)


@pytest.mark.sweep
def test_steps_and_counters_are_those_of_the_iteration():
    """The iteration written out: verdicts by argmax over full forwards, one row at a time."""
    config, params = architecture("hybrid")
    forward = quick_jit(lambda tokens: jnp.argmax(config.forward(params, tokens), axis=-1))
    width, size = max(map(len, PROMPTS)) + NEW + STRATEGY.window, STRATEGY.window

    def verdict(history, window):
        padded = np.zeros((1, width), np.int32)
        padded[0, : len(history) + size] = [*history, *window]
        return np.asarray(forward(padded))[0, len(history) : len(history) + size].tolist()

    ours = decode(config, params, STRATEGY)
    for b, prompt in enumerate(PROMPTS):
        first = int(ours.tokens[b, 0])
        history, window, new, calls, accepted = list(prompt), [first] * size, [first], 0, 0
        while len(new) < NEW:
            said = verdict(history, window)
            n = 1
            while n < size and window[n] == said[n - 1]:
                n += 1
            accepted += min(n - 1, NEW - len(new))
            history, new, calls = history + window[:n], new + said[:n], calls + 1
            window = (said[n - 1 :] + said[-1:] * size)[:size]
        assert ours.tokens[b].tolist()[:NEW] == new[:NEW]
        assert ours.counters["calls"][b] == calls
        assert ours.counters["accepted"][b] == accepted
        assert ours.counters["drafted"][b] == calls * (size - 1)
    assert ours.counters["accepted"].sum() > 0
    assert ours.steps == ours.counters["calls"].max()


@pytest.mark.sweep
def test_a_cache_without_a_slot_to_spare_is_enough():
    config, params = architecture("attention")
    prompts, new = [[1] * 16, [2, 3]], 16
    made = ready(config, params, STRATEGY, prompts, new)
    tight = config.init_cache(2, 16 + new + STRATEGY.lookahead)
    run = quick_jit(driver.generate, static_argnames=("config", "max_new"))
    out, _ = run(params, made.request, tight, STRATEGY, config=config, max_new=new)
    roomy = decode(config, params, STRATEGY, prompts, new)
    np.testing.assert_array_equal(out.tokens, roomy.tokens[:, :new])
    with pytest.raises(ValueError, match="3 slots of lookahead; it must be at least 35"):
        ready(config, params, STRATEGY, prompts, new, capacity=34)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"window": 1}, "window must be a whole number >= 2 .*, got 1"),
        ({"top_logprobs": -1}, "top_logprobs .* got -1"),
        ({"prefill_window": 0}, "prefill_window must be a whole number >= 1 .*, got 0"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Jacobi(**arguments)


def test_a_strategy_is_a_pytree_whose_sizes_are_static():
    assert jax.tree.leaves(STRATEGY) == []
    trees = {jax.tree.structure(s) for s in (STRATEGY, dataclasses.replace(STRATEGY, window=6))}
    assert len(trees) == 2


@pytest.mark.parametrize("processors", [(), PROCESSORS], ids=["plain", "processors"])
@pytest.mark.sweep
def test_a_sampled_step_has_the_models_joint_distribution(processors):
    strategy = Jacobi(window=3, sampler=Sample(), processors=processors)._speculative
    assert_exact_step(*tiny("hybrid", 0), strategy, levels=0, kept=[0, 1, 2])


@pytest.mark.sweep
def test_penalties_see_the_draft_tokens():
    config, params = architecture("hybrid")
    penalty = (RepetitionPenalty(1.5), FrequencyPenalty(0.5))
    plain = decode(config, params, Autoregressive(processors=penalty))
    ours = decode(config, params, Jacobi(window=5, processors=penalty))
    np.testing.assert_array_equal(ours.tokens, plain.tokens)
    assert ours.counters["accepted"].sum() > 0
