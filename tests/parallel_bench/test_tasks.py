"""Questions: their answers by hand, what else counts, and that they follow from their arguments."""

from random import Random

import pytest

from jaxmodels.parallel_bench.tasks import LONGEST, SHORTEST, TASKS, ask, questions
from jaxmodels.parallel_bench.vocabulary import NAMES, build_tokenizer


def without(items, place):
    return (*items[:place], *items[place + 1 :])


def with_word(items, place, word):
    return (*items[:place], word, *items[place:])


# The answers that a prompt asks for, of its words in front of the list and of the items.
BY_HAND = {
    "copy": lambda _, items: {items},
    "reverse": lambda _, items: {items[::-1]},
    "sort": lambda _, items: {tuple(sorted(items))},
    "replace_index": lambda words, items: {
        with_word(without(items, int(words[1]) - 1), int(words[1]) - 1, words[3])
    },
    "replace_all": lambda words, items: {tuple(words[3] if item == words[1] else item for item in items)},
    "insert_index": lambda words, items: {with_word(items, int(words[3]) - 1, words[1])},
    "remove_index": lambda words, items: {without(items, int(words[1]) - 1)},
    "replace_random": lambda words, items: {
        with_word(without(items, place), place, words[3]) for place in range(len(items))
    },
    "insert_random": lambda words, items: {
        with_word(items, place, words[1]) for place in range(len(items) + 1)
    },
    "remove_random": lambda _, items: {without(items, place) for place in range(len(items))},
}


def test_all_tasks_but_those_of_many_answers_are_done_by_hand():
    assert {*BY_HAND, "shuffle", "latin_square"} == set(TASKS)


@pytest.mark.parametrize("task", BY_HAND)
def test_answers_are_those_that_the_prompt_asks_for(task):
    for question in questions(task, 20, SHORTEST):
        answers, words = list(question.answers), question.prompt.split()
        begin = words.index("[")
        assert set(answers) == BY_HAND[task](words[:begin], tuple(words[begin + 1 : -2]))
        assert len(answers) == len(set(answers))
        assert question.answers.draw(Random(0)) in question.answers
        assert {len(answer) for answer in answers} == {question.answers.length}
        assert (*answers[0][:-1], "Nobody") not in question.answers


def test_any_permutation_is_a_shuffle():
    (question,) = questions("shuffle", 1, 5)
    items = tuple(question.prompt.split()[2:7])
    assert items in question.answers and items[::-1] in question.answers
    assert (*items[:4], items[0]) not in question.answers and items[:4] not in question.answers
    assert len(set(question.answers)) == 120
    assert {question.answers.draw(Random(seed)) for seed in range(50)} <= set(question.answers)


def test_the_twelve_latin_squares_of_three_symbols():
    (question,) = questions("latin_square", 1, 4)
    a, b, c = question.prompt.split()[2:5]
    assert len(list(question.answers)) == 12
    assert (a, b, c, b, c, a, c, a, b) in question.answers
    assert (a, b, c, a, b, c, a, b, c) not in question.answers


def test_questions_follow_from_their_arguments():
    assert questions("copy", 3, 6, seed=1) == questions("copy", 5, 6, seed=1)[:3]
    assert questions("copy", 3, 6, seed=1) != questions("copy", 3, 6, seed=2)
    prompts = {question.prompt for question in questions("shuffle", 200, 4)}
    assert len(prompts) == 200


def test_a_word_may_stand_in_several_places_only_where_all_are_replaced():
    counts = set()
    for question in questions("replace_all", 50, 8):
        old, new = question.prompt.split()[1:4:2]
        (answer,) = question.answers
        assert old not in answer
        counts.add(answer.count(new))
    assert counts == {1, 2, 3}


@pytest.mark.parametrize("task", TASKS)
def test_every_word_is_one_token(task):
    tokenizer = build_tokenizer()
    for length in (SHORTEST, LONGEST):
        question = ask(task, length, Random(0))
        for text in (question.prompt, " ".join(question.answers.draw(Random(0)))):
            encoding = tokenizer.encode(text)
            assert encoding.tokens == text.split()
            assert tokenizer.decode(encoding.ids) == text


def test_names_are_in_the_order_that_sorting_asks_for():
    assert list(NAMES) == sorted(set(NAMES))


def test_what_is_out_of_range_is_told():
    with pytest.raises(ValueError, match="'copies'; there are copy, reverse"):
        questions("copies", 1, 4)
    with pytest.raises(ValueError, match=r"length must be a whole number .* got 25"):
        questions("copy", 1, 25)
