"""What independent draws can reach: the games of the tasks against their answers written out, and by hand."""

import math

import pytest

from jaxmodels.parallel_bench.optimum import LISTED, frontier, per_call
from jaxmodels.parallel_bench.questions import Listed, Permutations
from jaxmodels.parallel_bench.tasks import TASKS
from jaxmodels.parallel_bench.tasks.latin_square import squares

PRICES = (0.001, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)


def letters(count):
    return tuple("abcdef"[:count])


def replaced(count):
    words = letters(count)
    return Listed(tuple((*words[:i], "new", *words[i + 1 :]) for i in range(count)))


def inserted(count):
    words = letters(count)
    return Listed(tuple((*words[:i], "new", *words[i:]) for i in range(count + 1)))


def removed(count):
    words = letters(count)
    return Listed(tuple((*words[:i], *words[i + 1 :]) for i in range(count)))


OPEN = {
    "shuffle": lambda count: Permutations(letters(count)),
    "replace_random": replaced,
    "insert_random": inserted,
    "remove_random": removed,
}


@pytest.mark.parametrize("settled", [0, 1, 3])
@pytest.mark.parametrize("count", [2, 3, 4])
@pytest.mark.parametrize("task", OPEN)
def test_each_game_is_that_of_its_answers_written_out(task, count, settled):
    game, answers = TASKS[task].game, OPEN[task](count)
    assert game is not LISTED
    for k in range(1, count + settled + 2):
        expected = per_call(LISTED, Listed(tuple(answers)), k, settled)
        assert per_call(game, answers, k, settled) == pytest.approx(expected, abs=1e-12)
    for price in PRICES:
        (found,) = frontier(game, answers, [price], settled)
        (expected,) = frontier(LISTED, Listed(tuple(answers)), [price], settled)
        worth = expected.accuracy - price * expected.calls
        assert found.accuracy - price * found.calls == pytest.approx(worth, abs=1e-12)


@pytest.mark.parametrize("task", OPEN)
def test_one_place_per_call_loses_nothing(task):
    assert per_call(TASKS[task].game, OPEN[task](6), 1) == pytest.approx(1)


@pytest.mark.parametrize("count", [2, 5, 6])
def test_all_places_in_one_call(count):
    def at_once(task):
        return per_call(TASKS[task].game, OPEN[task](count), 99)

    assert at_once("shuffle") == pytest.approx(math.factorial(count) / count**count)
    assert at_once("replace_random") == pytest.approx((1 - 1 / count) ** (count - 1))


def test_two_places_per_call_of_a_shuffle():
    # The second of two draws differs from the first with probability 1 - 1/left.
    assert per_call(TASKS["shuffle"].game, OPEN["shuffle"](6), 2) == pytest.approx(5 / 6 * 3 / 4 * 1 / 2)
    # A settled place beside the last two lets them be drawn one after the other.
    assert per_call(TASKS["shuffle"].game, OPEN["shuffle"](6), 2, 1) == pytest.approx(5 / 6 * 3 / 4)


def test_answers_that_follow_from_the_prompt_take_one_call():
    answers = Listed((("a", "b", "c"),))
    assert [per_call(LISTED, answers, k) for k in (1, 2, 99)] == [1, 1, 1]
    assert [(point.calls, point.accuracy) for point in frontier(LISTED, answers, PRICES)] == [(1, 1)]


def test_a_policy_that_looks_stops_early_where_the_new_word_is_found():
    # One place per call until the new word is there, then the rest: a call more than the place it stands at,
    # but where it is the last or, because the last place is settled then, the last but one.
    game, answers = TASKS["replace_random"].game, replaced(4)
    point = frontier(game, answers, [1e-6])[-1]
    assert point.accuracy == pytest.approx(1)
    assert point.calls == pytest.approx((2 + 3 + 4 + 4) / 4)
    assert per_call(game, answers, 1) == pytest.approx(1)  # with four calls


def test_a_latin_square_of_two_symbols_by_hand():
    answers = Listed(tuple(squares("ab")))  # a b b a and b a a b: one draw decides the others
    assert per_call(LISTED, answers, 4) == pytest.approx(2 / 2**4)
    assert per_call(LISTED, answers, 2) == pytest.approx(1 / 2)
    assert frontier(LISTED, answers, [0.01])[0].calls == 2
