"""Speculation is lossless: greedy token for token, sampled by enumeration over every draft and outcome."""

import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from strategy_helpers import (
    NEW,
    PROMPTS,
    architecture,
    assert_same_generation,
    bigram_draft,
    decode,
    expected,
    in_tiers,
    nearby,
    stop_inside,
)

from jaxmodels.decoding import (
    BlockVerification,
    Draft,
    PromptLookup,
    Sample,
    Speculative,
    TreeDrafter,
)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("name", in_tiers(["attention", "ssd"], ["latent", "ring", "delta", "hybrid"]))
def test_greedy_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    plain = expected(name)
    draft = bigram_draft(plain.tokens, config.vocab_size)
    strategy = Speculative(draft=draft, gamma=3, top_logprobs=2)
    ours = decode(config, params, strategy)
    assert_same_generation(ours, plain)
    assert 0 < ours.counters["accepted"].sum() < ours.counters["drafted"].sum()
    assert len(set(ours.counters["calls"].tolist())) > 1  # rows went on at their own pace
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, strategy, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.parametrize("name", in_tiers(["attention"], ["hybrid"]))
def test_a_row_alone_gives_what_it_gives_in_a_batch(name):
    config, params = architecture(name)
    draft = bigram_draft(expected(name).tokens, config.vocab_size)
    ours = decode(config, params, Speculative(draft=draft, gamma=2, top_logprobs=2), PROMPTS[2:3])
    assert_same_generation(ours, expected(name), row=2)


@pytest.mark.sweep
def test_the_draft_forgets_what_was_not_accepted():
    """Accepted counts are those of drafting anew from the whole text at every step."""
    (config, params), gamma = architecture("hybrid"), 3
    draft = Draft(config, nearby(params, 0.15))
    ours = decode(config, params, Speculative(draft=draft, gamma=gamma))
    best = quick_jit(lambda weights, tokens: jnp.argmax(config.forward(weights, tokens), axis=-1))
    width = max(map(len, PROMPTS)) + NEW + gamma
    plain = expected("hybrid").tokens
    for b, prompt in enumerate(PROMPTS):
        length, calls, accepted = 1, 0, 0
        while length < NEW:
            drafted = [*prompt, *plain[b, :length].tolist()]
            for _ in range(gamma):
                padded = np.zeros((1, width), np.int32)
                padded[0, : len(drafted)] = drafted
                drafted.append(int(best(draft.params, padded)[0, len(drafted) - 1]))
            right = drafted[len(prompt) + length :] == plain[b, length : length + gamma]
            if right.shape[0] < gamma:
                right = np.asarray(drafted[len(prompt) + length :][: NEW - length]) == plain[b, length:NEW]
            n = int(np.cumprod(right).sum())
            accepted, calls, length = accepted + n, calls + 1, length + n + 1
        assert ours.counters["calls"][b] == calls
        assert ours.counters["accepted"][b] == accepted
    assert 0 < ours.counters["accepted"].sum() < ours.counters["drafted"].sum()


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("name", "draft_name", "processors"),
    [
        ("hybrid", "attention", ()),
        ("attention", "ssd", ()),
        ("attention", "ssd", PROCESSORS),
    ],
    ids=["hybrid", "attention", "processors"],
)
def test_a_sampled_step_has_the_models_joint_distribution(name, draft_name, processors):
    draft = Draft(*tiny(draft_name, 1))
    strategy = Speculative(draft=draft, gamma=2, processors=processors)
    assert_exact_step(*tiny(name, 0), strategy, levels=2, kept=[0, 1, 2])


def test_samples_do_not_depend_on_their_neighbours_and_follow_the_seed():
    config, params = architecture("attention")
    draft = bigram_draft(expected("attention").tokens, config.vocab_size)
    strategy = Speculative(draft=draft, gamma=3, sampler=Sample(temperature=0.8, top_k=9))
    together = decode(config, params, strategy, seed=1)
    shuffled = decode(config, params, strategy, [PROMPTS[0], *reversed(PROMPTS[1:])], seed=1)
    other = decode(config, params, strategy, seed=2)
    np.testing.assert_array_equal(together.tokens[0], shuffled.tokens[0])
    assert (together.tokens != other.tokens).any()
    assert together.counters["accepted"].sum() > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"gamma": 0}, "gamma must be a whole number >= 1 .*, got 0"),
        ({"top_logprobs": -1}, "top_logprobs .* got -1"),
        ({"prefill_window": 0}, "prefill_window must be a whole number >= 1 .*, got 0"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Speculative(draft=Draft(*architecture("ssd")), **arguments)


def test_a_drafter_says_itself_how_much_it_drafts():
    assert Speculative(draft=PromptLookup(size=5)).lookahead == 4
    assert Speculative(draft=Draft(*architecture("ssd"))).lookahead == 3
    with pytest.raises(ValueError, match="gamma=3 is for a draft that is a model; tell PromptLookup itself"):
        Speculative(draft=PromptLookup(), gamma=3)


def test_a_tree_is_not_verified_by_blocks():
    drafter = TreeDrafter(draft=Draft(*architecture("ssd")), siblings=(2, 1))
    strategy = Speculative(draft=drafter, acceptance=BlockVerification(), sampler=Sample())
    with pytest.raises(ValueError, match="the draft is a tree of 3 tokens with up to 2 siblings"):
        decode(*architecture("ssd"), strategy)


def test_a_draft_of_another_vocabulary_is_refused():
    strategy = Speculative(draft=Draft(*tiny("ssd", 0)))
    with pytest.raises(ValueError, match="vocabulary has 3 tokens and the model's 29"):
        decode(*architecture("ssd"), strategy)
