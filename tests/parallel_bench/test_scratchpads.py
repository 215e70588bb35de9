"""Scratchpads: thoughts by hand, questions that need as many as is said, and what is learnt of them."""

import jax
import numpy as np

from jaxmodels.parallel_bench.scratchpads import (
    DEEPEST,
    FEWEST_ITEMS,
    MOST_CHECKS,
    MOST_ITEMS,
    MOST_TOKENS,
    Replacements,
    replacements,
    windows,
)
from jaxmodels.parallel_bench.vocabulary import CUE, THINK, THOUGHT, THOUGHTFUL, build_tokenizer
from jaxmodels.training.tokenizer import END_OF_TEXT

WORDS = {number: word for word, number in build_tokenizer(THOUGHTFUL).get_vocab().items()}


def test_thoughts_replace_every_word_once_more_until_no_rule_applies():
    asked = Replacements({"Ada": "Bob", "Cid": "Dan", "Bob": "Cid"}, ("Ada", "Eli", "Cid", "Bob"))
    assert asked.thoughts == (
        ("Bob", "Eli", "Dan", "Cid"),
        ("Cid", "Eli", "Dan", "Dan"),
        ("Dan", "Eli", "Dan", "Dan"),
    )
    assert asked.question.prompt == "replace Ada with Bob Cid with Dan Bob with Cid [ Ada Eli Cid Bob ] ="
    assert list(asked.question.answers) == [("Dan", "Eli", "Dan", "Dan")]


def test_questions_take_any_number_of_thoughts_and_follow_from_their_arguments():
    asked = replacements(300)
    depths = np.bincount([len(one.thoughts) for one in asked], minlength=DEEPEST + 1)
    assert depths[0] == 0 and len(depths) == DEEPEST + 1 and depths[1:].min() > 300 / DEEPEST / 2
    assert {len(one.items) for one in asked} == {*range(FEWEST_ITEMS, MOST_ITEMS + 1)}
    assert replacements(3) == asked[:3] and replacements(3, 1) != asked[:3]


def texts(step):
    batch = windows(step, 24, 3)
    for tokens, predicted, size in zip(
        *map(np.asarray, (batch.tokens, batch.predicted, batch.valid)), strict=True
    ):
        yield [WORDS[int(token)] for token in tokens[:size]], predicted, size


def test_texts_are_prompts_thoughts_with_checks_and_answers():
    cut = []
    for step in range(3):
        for words, predicted, size in texts(step):
            begin, end = words.index(THINK), words.index(THOUGHT)
            prompt, thinking, answer = words[:begin], words[begin + 1 : end], words[end + 1 :]
            *_, opened, closed, equals = (i for i, word in enumerate(prompt) if word in "[]=")
            items = tuple(prompt[opened + 1 : closed])
            asked = Replacements(dict(zip(prompt[1:opened:3], prompt[3:opened:3], strict=True)), items)
            assert " ".join(prompt) == asked.question.prompt and equals == begin - 1
            assert answer == [*asked.thoughts[-1], END_OF_TEXT]
            whole = " ".join(f"{' '.join(thought)} {CUE}" for thought in asked.thoughts).split()
            whole += [*asked.thoughts[-1], CUE] * MOST_CHECKS
            assert thinking == whole[: len(thinking)] and size - begin <= MOST_TOKENS
            # All behind the prompt is learnt, and not that a thinking ends which was cut off.
            learnt = np.flatnonzero(predicted)
            cut.append(not predicted[end])
            assert set(range(begin, size)) - set(learnt) == ({end} if cut[-1] else set())
            if not cut[-1]:
                checks = (len(thinking) + 1) // (len(items) + 1) - len(asked.thoughts)
                assert 1 <= checks <= MOST_CHECKS and thinking[-len(items) :] == answer[:-1]
    assert 0.2 < np.mean(cut) < 0.6


def test_windows_of_a_step_follow_from_the_seed():
    assert jax.tree.all(jax.tree.map(np.array_equal, windows(5, 4, 0), windows(5, 4, 0)))
    assert not np.array_equal(windows(5, 4, 0).tokens, windows(8, 4, 0).tokens)
    assert not np.array_equal(windows(5, 4, 0).tokens, windows(5, 4, 1).tokens)
