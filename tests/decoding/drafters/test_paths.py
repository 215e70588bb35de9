"""Independent paths and delayed trees: lossless on every kind of layer, under every rule that takes them."""

import itertools

import numpy as np
import pytest
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from strategy_helpers import (
    BESIDE_A_MODEL,
    NEW,
    PROMPTS,
    architecture,
    assert_same_generation,
    decode,
    expected,
    nearby,
    stop_inside,
)

from jaxmodels.decoding import (
    Autoregressive,
    BlockVerification,
    Draft,
    ModelDrafter,
    MultiPathVerification,
    PathsDrafter,
    Sample,
    SampledChild,
    Speculative,
    TokenVerification,
    TraversalVerification,
)
from jaxmodels.decoding.processors import FrequencyPenalty, NoRepeatNGram, RepetitionPenalty

RULES = [TokenVerification(), TraversalVerification(), MultiPathVerification(), SampledChild()]


def delayed(config, params, noise=0.3, trunk=1, paths=2, length=2, **options):
    drafter = PathsDrafter(
        draft=Draft(config, nearby(params, noise)), trunk=trunk, paths=paths, length=length
    )
    return Speculative(draft=drafter, **options)


@pytest.mark.sweep
@pytest.mark.parametrize("name", BESIDE_A_MODEL)
def test_greedy_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    strategy = delayed(config, params, top_logprobs=2)
    plain = expected(name)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, plain)
    assert 0 < ours.counters["accepted"].sum() < ours.counters["drafted"].sum()
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.parametrize(
    ("name", "trunk"), [("attention", 2), pytest.param("hybrid", 0, marks=pytest.mark.sweep)]
)
def test_the_draft_goes_on_with_the_path_that_was_accepted(name, trunk):
    """With a draft that is the model, all of a path is right in every round."""
    config, params = architecture(name)
    drafter = PathsDrafter(draft=Draft(config, params), trunk=trunk, paths=3, length=2)
    ours = decode(config, params, Speculative(draft=drafter))
    assert ours.counters["calls"].max() <= -(-(NEW - 1) // (trunk + 3))
    np.testing.assert_array_equal(ours.tokens, expected(name).tokens)


@pytest.mark.sweep
def test_paths_are_accepted_where_the_first_choice_is_wrong():
    config, params = architecture("ssd")
    draft = Draft(config, nearby(params, 0.5))
    chain = decode(config, params, Speculative(draft=ModelDrafter(draft=draft, size=3)))
    drafter = PathsDrafter(draft=draft, paths=4, length=3)
    ours = decode(config, params, Speculative(draft=drafter))
    assert ours.counters["calls"].sum() < chain.counters["calls"].sum()


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["attention", "ssd"])
def test_processors_see_each_path_by_itself(name):
    processors = (RepetitionPenalty(1.3), FrequencyPenalty(0.3), NoRepeatNGram(2))
    config, params = architecture(name)
    plain = decode(config, params, Autoregressive(processors=processors, top_logprobs=1))
    ours = decode(config, params, delayed(config, params, processors=processors, top_logprobs=1))
    assert_same_generation(ours, plain)
    assert ours.counters["accepted"].sum() > 0


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "draft_name", "processors", "rule"),
    [
        ("attention", "ssd", PROCESSORS, MultiPathVerification()),
        ("hybrid", "attention", (), TraversalVerification()),
        ("attention", "ssd", PROCESSORS, TokenVerification()),
    ],
    ids=lambda value: "" if isinstance(value, tuple | str) else type(value).__name__,
)
def test_a_sampled_step_has_the_models_joint_distribution(name, draft_name, processors, rule):
    """Behind a first step that took nothing, the trunk, or the first path, which the second one equals."""
    drafter = PathsDrafter(draft=Draft(*tiny(draft_name, 1)), trunk=1, paths=2, length=1)
    strategy = Speculative(draft=drafter, processors=processors, acceptance=rule)
    assert_exact_step(*tiny(name, 0), strategy, levels=3, kept=[0, 1, 2])


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "rule"),
    zip(itertools.cycle(["attention", "hybrid"]), RULES),
    ids=lambda value: value if isinstance(value, str) else type(value).__name__,
)
def test_a_sampled_step_of_longer_paths_has_the_models_joint_distribution(name, rule):
    drafter = PathsDrafter(draft=Draft(*tiny("ssd", 1)), paths=2, length=2)
    strategy = Speculative(draft=drafter, processors=PROCESSORS, acceptance=rule)
    assert_exact_step(*tiny(name, 0), strategy, levels=4, kept=[0, 1, 3])


@pytest.mark.sweep
def test_a_row_alone_gives_what_it_gives_in_a_batch():
    config, params = architecture("hybrid")
    ours = decode(config, params, delayed(config, params, top_logprobs=2), PROMPTS[2:3])
    assert_same_generation(ours, expected("hybrid"), row=2)
    sampled = delayed(config, params, sampler=Sample(temperature=0.8, top_k=9))
    together = decode(config, params, sampled, seed=1)
    shuffled = decode(config, params, sampled, [PROMPTS[0], *reversed(PROMPTS[1:])], seed=1)
    np.testing.assert_array_equal(together.tokens[0], shuffled.tokens[0])
    assert together.counters["accepted"].sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"paths": 0}, "paths must be a whole number >= 1 .*, got 0"),
        ({"length": 0}, "length must be a whole number >= 1 .*, got 0"),
        ({"trunk": -1}, "trunk must be a whole number >= 0 .*, got -1"),
        ({"paths": 30}, "paths=30: paths that begin .* cannot be more than the vocabulary has, 29"),
    ],
)
def test_forks_that_cannot_be_are_refused(arguments, message):
    config, params = architecture("ssd")
    with pytest.raises(ValueError, match=message):
        decode(config, params, delayed(config, params, **arguments))


def test_blocks_are_not_verified_in_paths():
    config, params = architecture("ssd")
    with pytest.raises(ValueError, match="the draft is a tree of 5 tokens with up to 2 siblings"):
        decode(config, params, delayed(config, params, sampler=Sample(), acceptance=BlockVerification()))
