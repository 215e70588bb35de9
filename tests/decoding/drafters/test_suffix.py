"""Suffix decoding: the drafts of a trie, and whole generations that stay as they are."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from model_helpers import quick_jit
from step_enumeration import assert_exact_step, tiny
from strategy_helpers import (
    BESIDE_A_MODEL,
    PROMPTS,
    architecture,
    assert_same_generation,
    decode,
    expected,
    stop_inside,
)
from suffix_tries import trie

from jaxmodels.decoding import Speculative, SuffixDecoding, driver
from jaxmodels.decoding.drafters.matches import NO_TOKEN, matches_of, searched

SUFFIX = Speculative(draft=SuffixDecoding(size=7, least=1, offset=1.0), top_logprobs=2)


def by_trie(root, context, *, factor, offset, least, size, least_probability, most):
    """(score, draft): the published rule, by nodes."""
    best = 0.0, []
    for m in range(least, min(len(context) - 1, most) + 1):
        node = root
        for token in context[-m:]:
            node = node.children.get(token) if node else None
        if node is None:
            break
        limit, draft, score, probability = min(size, int(factor * m + offset + 1e-6)), [], 0.0, 1.0
        while len(draft) < limit and node.children:
            token, child = max(node.children.items(), key=lambda item: item[1].count)
            probability *= child.count / node.count
            if probability < least_probability:
                break
            draft.append(token)
            score, node = score + probability, child
        if score >= best[0] and draft:
            best = score, draft
    return best


@quick_jit
def drafted(drafter, text, length, earlier):
    """The chain of one text, by its own matches or by those in another."""
    most = drafter.most
    matches = matches_of(text, length, most) if earlier is None else searched(earlier, text, length, most)
    return drafter.search(matches.text[0], matches.lengths[0], int(earlier is None))


def found(drafter, text, earlier=None):
    """(score, draft) by arrays."""
    padded, length = jnp.asarray([[*text, *[0] * (40 - len(text))]]), jnp.asarray([len(text)])
    path = drafted(drafter, padded, length, None if earlier is None else jnp.asarray([earlier]))
    return float(path.score), path.tokens[: int(path.count)].tolist()


def test_the_published_example():
    drafter = SuffixDecoding(size=10, least=1, factor=1.0, offset=0.0)
    score, draft = found(drafter, [1, 2, 3, 4, 1, 2, 3, 5, 1, 2, 3, 4, 6, 1, 2, 3])
    assert draft == [4, 1, 2]
    assert score == pytest.approx(0.5 + 0.25 + 0.25)


@pytest.mark.parametrize(
    "options",
    [
        {"least": 1, "factor": 1.0, "offset": 0.0},
        {"least": 1, "offset": 1.0, "factor": 2.0, "least_probability": 0.17},
        {"least": 3, "most": 5, "offset": -1.0},
    ],
    ids=["published", "longer", "bounded"],
)
def test_drafts_are_those_of_a_trie(options):
    rng, drafter, drafts = np.random.default_rng(0), SuffixDecoding(size=6, **options), 0
    rules = {
        name: getattr(drafter, name)
        for name in ("factor", "offset", "least", "size", "least_probability", "most")
    }
    for length in range(2, 40):
        text = rng.integers(3, size=length).tolist()
        answers = [rng.integers(3, size=9).tolist() for _ in range(3)]
        corpus = [token for answer in answers for token in (*answer, NO_TOKEN)]
        for ours, theirs in (
            (found(drafter, text), by_trie(trie([text]), text, **rules)),
            # Among earlier answers even the whole text may stand; the rule as published leaves its first out.
            (found(drafter, text, corpus), by_trie(trie(answers), [-9, *text], **rules)),
        ):
            assert ours[1] == theirs[1], text
            assert ours[0] == pytest.approx(theirs[0], abs=1e-5)
            drafts += len(ours[1])
    assert drafts > 40


@pytest.mark.sweep
@pytest.mark.parametrize("name", BESIDE_A_MODEL)
def test_greedy_equals_autoregressive_decoding(name):
    config, params = architecture(name)
    plain = expected(name)
    ours = decode(config, params, SUFFIX)
    assert_same_generation(ours, plain)
    assert ours.counters["accepted"].sum() > 0
    stop = stop_inside(plain.tokens)
    assert_same_generation(decode(config, params, SUFFIX, stop=[stop]), expected(name, stop=(stop,)))


def test_an_answer_given_before_is_drafted_from_the_corpus():
    config, params = architecture("ssd")
    plain = expected("ssd")
    first = SuffixDecoding(size=7, least=1, offset=7.0).remembering([[5, 5]], room=64)
    again = first.remembering(plain.tokens.tolist(), room=64)
    programs = driver.generate._cache_size() if hasattr(driver.generate, "_cache_size") else None
    fewer = decode(config, params, Speculative(draft=again))
    assert fewer.steps < decode(config, params, Speculative(draft=first)).steps
    np.testing.assert_array_equal(fewer.tokens, plain.tokens)
    assert programs is None or driver.generate._cache_size() == programs


@pytest.mark.sweep
def test_a_corpus_of_another_vocabulary_is_refused():
    config, params = architecture("ssd")
    beyond = config.vocab_size
    drafter = SuffixDecoding().remembering([[1, beyond - 1]], room=8)
    decode(config, params, Speculative(draft=drafter), new=2)
    with pytest.raises(ValueError, match=f"SuffixDecoding names token {beyond}, which lies outside the voc"):
        decode(config, params, Speculative(draft=drafter.remembering([[beyond, 1]], room=8)), new=2)


def test_a_corpus_keeps_its_size_and_forgets_the_oldest():
    drafter = SuffixDecoding().remembering([[1, 2, 3]], room=6).remembering([[4, 5]], room=6)
    assert drafter.corpus.tolist() == [2, 3, NO_TOKEN, 4, 5, NO_TOKEN]


@pytest.mark.sweep
def test_a_sampled_step_has_the_models_joint_distribution():
    strategy = Speculative(draft=SuffixDecoding(size=2, least=1, offset=1.0, least_probability=0.0))
    assert_exact_step(*tiny("ssd", 0), strategy, levels=0, kept=[0, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"size": 0}, "size must be a whole number >= 1 .*, got 0"),
        ({"least": 9, "most": 8}, "least=9 must not exceed most=8"),
        ({"factor": -1}, "factor must be a finite number >= 0, got -1"),
        ({"least_probability": 1.5}, "least_probability .* got 1.5"),
        ({"corpus": np.ones(3)}, "corpus must be token ids i32"),
    ],
)
def test_values_outside_their_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        SuffixDecoding(**arguments)


def test_rows_that_are_done_are_drafted_nothing():
    config, params = architecture("ssd")
    ours = decode(config, params, SUFFIX, PROMPTS, new=3)
    assert ours.counters["drafted"].max() < 3 * 7
    assert jax.tree.all(jax.tree.map(np.array_equal, ours.lengths, np.full(len(PROMPTS), 3)))
