"""Trees of drafts: lossless, and accepted where a chain fails at a token that came second."""

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

from jaxmodels.decoding import Draft, ModelDrafter, Sample, Speculative, TreeDrafter
from jaxmodels.decoding.processors import FrequencyPenalty, NoRepeatNGram, RepetitionPenalty


def tree(config, params, siblings=(3, 2, 1), noise=0.3, **options):
    drafter = TreeDrafter(draft=Draft(config, nearby(params, noise)), siblings=siblings)
    return Speculative(draft=drafter, **options)


@pytest.mark.sweep
@pytest.mark.parametrize("name", BESIDE_A_MODEL)
def test_greedy_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    strategy = tree(config, params, top_logprobs=2)
    plain = expected(name)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, plain)
    assert 0 < ours.counters["accepted"].sum() < ours.counters["drafted"].sum()
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["attention", "hybrid", "latent"])
def test_a_row_alone_gives_what_it_gives_in_a_batch(name):
    config, params = architecture(name)
    ours = decode(config, params, tree(config, params, top_logprobs=2), PROMPTS[2:3])
    assert_same_generation(ours, expected(name), row=2)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["attention", "hybrid"])
def test_the_draft_catches_up_with_what_it_did_not_follow(name):
    """With a draft that is the model, levels behind the first are right whatever the first step took."""
    config, params = architecture(name)
    drafter = TreeDrafter(draft=Draft(config, params), siblings=(2, 2, 1))
    ours = decode(config, params, Speculative(draft=drafter))
    assert ours.counters["calls"].max() <= -(-(NEW - 1) // 4)
    np.testing.assert_array_equal(ours.tokens, expected(name).tokens)


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["attention", "ssd"])
def test_siblings_are_accepted_where_the_first_choice_is_wrong(name):
    """Per call no fewer than of the chain of first choices, from the same text, and here more."""
    config, params = architecture(name)
    draft = Draft(config, nearby(params, 0.5))
    chain = decode(config, params, Speculative(draft=ModelDrafter(draft=draft, size=3)))
    ours = decode(config, params, Speculative(draft=TreeDrafter(draft=draft, siblings=(4, 4, 4))))
    assert ours.counters["calls"].sum() < chain.counters["calls"].sum()


@pytest.mark.sweep
@pytest.mark.parametrize("name", ["ssd", "attention"])
def test_processors_see_each_path_by_itself(name):
    from jaxmodels.decoding import Autoregressive

    processors = (RepetitionPenalty(1.3), FrequencyPenalty(0.3), NoRepeatNGram(2))
    config, params = architecture(name)
    plain = decode(config, params, Autoregressive(processors=processors, top_logprobs=1))
    ours = decode(config, params, tree(config, params, processors=processors, top_logprobs=1))
    assert_same_generation(ours, plain)
    assert ours.counters["accepted"].sum() > 0


@pytest.mark.sweep
@pytest.mark.parametrize("processors", [(), PROCESSORS], ids=["plain", "processors"])
@pytest.mark.parametrize(
    ("name", "draft_name"),
    [("attention", "ssd"), ("hybrid", "attention")],
)
def test_a_sampled_step_has_the_models_joint_distribution(name, draft_name, processors):
    """Behind a first step that took nothing, the first choice, its sibling, or one of the second level."""
    drafter = TreeDrafter(draft=Draft(*tiny(draft_name, 1)), siblings=(2, 3))
    strategy = Speculative(draft=drafter, processors=processors)
    assert_exact_step(*tiny(name, 0), strategy, levels=2, kept=[0, 1, 2, 3, 4])


@pytest.mark.sweep
def test_samples_do_not_depend_on_their_neighbours():
    config, params = architecture("attention")
    strategy = tree(config, params, sampler=Sample(temperature=0.8, top_k=9))
    together = decode(config, params, strategy, seed=1)
    shuffled = decode(config, params, strategy, [PROMPTS[0], *reversed(PROMPTS[1:])], seed=1)
    np.testing.assert_array_equal(together.tokens[0], shuffled.tokens[0])
    assert together.counters["accepted"].sum() > 0


@pytest.mark.parametrize(
    ("siblings", "message"),
    [
        ((), r"siblings must be numbers of tokens, such as \(3, 2, 1\), got \(\)"),
        (3, "siblings must be numbers of tokens"),
        ((2, 0), r"siblings\[1\] must be a whole number >= 1 .*, got 0"),
        ((30,), "cannot have more tokens than the vocabulary, 29"),
    ],
)
def test_siblings_that_make_no_tree_are_refused(siblings, message):
    config, params = architecture("ssd")
    with pytest.raises(ValueError, match=message):
        decode(config, params, tree(config, params, siblings=siblings))
