"""Drafts from the text: those of a search written out, and whole generations that stay as they are."""

import functools

import jax
import numpy as np
import pytest
from model_helpers import quick_jit
from step_enumeration import PROCESSORS, assert_exact_step, tiny
from strategy_helpers import (
    BESIDE_A_MODEL,
    PROMPTS,
    architecture,
    assert_same_generation,
    decode,
    expected,
    stop_inside,
)

from jaxmodels.decoding import BlockVerification, PromptLookup, Speculative
from jaxmodels.decoding.drafters.matches import matches_of

LOOKUP = Speculative(draft=PromptLookup(size=4, most=3), top_logprobs=2)


def search(text, size, most, least):
    """The draft by slices of lists, None without a match."""
    for length in range(min(most, len(text) - 1), least - 1, -1):
        for end in range(len(text) - 1, length - 1, -1):  # behind the match
            if text[end - length : end] == text[-length:]:
                draft = list(text)
                for i in range(size):
                    draft.append(draft[end + i])
                return draft[len(text) :]
    return None


@functools.partial(quick_jit, static_argnums=0)
def draft_of(drafter, padded, length):
    """(tokens, how many) behind the first `length` tokens of a text i32[1, T]."""
    matches = matches_of(padded, length[None], drafter.most)
    return drafter._draft(matches.text[0], matches.lengths[0], length)


@pytest.mark.parametrize(("most", "least"), [(1, 1), (3, 1), (3, 2), (4, 4)])
def test_draft_tokens_are_those_of_a_search(most, least):
    rng = np.random.default_rng(0)
    drafter, found = PromptLookup(size=5, most=most, least=least), 0
    for length in range(1, 26):
        text = rng.integers(3, size=length).tolist()
        padded = np.asarray([text + rng.integers(3, size=30 - length).tolist()], np.int32)
        draft, count = draft_of(drafter, padded, np.int32(length))
        ours = search(text, 5, most, least)
        assert count == (0 if ours is None else 5), text
        if ours is not None:
            assert draft.tolist() == ours, text
            found += 1
    assert 0 < found < 25


@pytest.mark.parametrize("most", [1, 2, 4])
def test_the_first_match_is_that_of_transformers(most):
    torch = pytest.importorskip("torch")
    generators = pytest.importorskip("transformers.generation.candidate_generator")
    theirs = generators.PromptLookupCandidateGenerator(
        num_output_tokens=5, max_matching_ngram_size=most, max_length=1000
    )
    rng = np.random.default_rng(1)
    drafter, counts = PromptLookup(size=5, most=most, match="first"), set()
    for length in range(2, 26):
        text = rng.integers(4, size=length).tolist()
        expected_ids, _ = theirs.get_candidates(torch.tensor([text]))
        padded = np.asarray([text + [0] * (30 - length)], np.int32)
        draft, count = draft_of(drafter, padded, np.int32(length))
        assert draft.tolist()[: int(count)] == expected_ids[0, length:].tolist(), text
        counts.add(int(count))
    assert {0, 5} < counts, counts


@pytest.mark.sweep
def test_how_many_tokens_must_agree_is_data():
    config, params = architecture("ssd")
    strict = Speculative(draft=PromptLookup(size=4, most=20, least=20))
    assert jax.tree.structure(strict) == jax.tree.structure(
        Speculative(draft=PromptLookup(size=4, most=20, least=3))
    )
    first = Speculative(draft=PromptLookup(size=4, least=2, match="first"))
    np.testing.assert_array_equal(decode(config, params, first).tokens, expected("ssd").tokens)


@pytest.mark.sweep
@pytest.mark.parametrize("name", BESIDE_A_MODEL)
def test_greedy_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    plain = expected(name)
    ours = decode(config, params, LOOKUP)
    assert_same_generation(ours, plain)
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, LOOKUP, stop=[stop]), expected(name, stop=(stop,)))


@pytest.mark.sweep
def test_text_that_repeats_itself_takes_fewer_steps():
    config, params = architecture("ssd")
    ours, plain = decode(config, params, LOOKUP, PROMPTS[1:2]), expected("ssd")
    np.testing.assert_array_equal(ours.tokens[0], plain.tokens[1])
    assert (ours.steps, plain.steps) == (3, 13)


def test_rows_without_a_match_are_drafted_nothing():
    config, params = architecture("ssd")
    ours = decode(config, params, Speculative(draft=PromptLookup(size=4, most=20, least=20)))
    assert ours.counters["drafted"].tolist() == [0] * len(PROMPTS)
    assert ours.steps == expected("ssd").steps
    np.testing.assert_array_equal(ours.tokens, expected("ssd").tokens)


@pytest.mark.sweep
@pytest.mark.parametrize(
    ("acceptance", "processors"),
    [
        (LOOKUP.acceptance, PROCESSORS),
        (BlockVerification(), PROCESSORS),
    ],
    ids=["tokens", "blocks"],
)
def test_a_sampled_step_has_the_models_joint_distribution(acceptance, processors):
    strategy = Speculative(draft=PromptLookup(size=2), acceptance=acceptance, processors=processors)
    assert_exact_step(*tiny("ssd", 0), strategy, levels=0, kept=[0, 1, 2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be a whole number >= 1 .*, got 0"),
        ({"most": 0}, "most must be a whole number >= 1 .*, got 0"),
        ({"most": 2, "least": 3}, "least=3 must not exceed most=2"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        PromptLookup(**arguments)
