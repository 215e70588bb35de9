"""Put a word in the place of others: named by its place, by the word, or left to the model."""

from collections.abc import Iterator
from random import Random

from jaxmodels.parallel_bench.optimum import Game, Outcome
from jaxmodels.parallel_bench.questions import Listed, Question, Words, listed, only
from jaxmodels.parallel_bench.vocabulary import LARGEST_PLACE


def replace_index(random: Random, items: list[str], spare: str) -> Question:
    """The spare word at a given place, counted from 1."""
    place = random.randrange(min(len(items), LARGEST_PLACE))
    return Question(
        prompt=f"replace {place + 1} with {spare} {listed(items)} =",
        answers=only(*_replaced(items, place, spare)),
    )


def replace_all(random: Random, items: list[str], spare: str) -> Question:
    """The spare word in every place of a word that stands in the list once, twice or three times."""
    items = list(items)
    places = random.sample(range(len(items)), min(random.randint(1, 3), len(items)))
    old = items[places[0]]
    for place in places:
        items[place] = old
    return Question(
        prompt=f"replace {old} with {spare} {listed(items)} =",
        answers=only(*(spare if item == old else item for item in items)),
    )


def replace_random(random: Random, items: list[str], spare: str) -> Question:
    """The spare word in any one place, the others as they were."""
    return Question(
        prompt=f"replace any with {spare} {listed(items)} =",
        answers=Listed(tuple(_replaced(items, place, spare) for place in range(len(items)))),
    )


def _replaced(items: list[str], place: int, spare: str) -> Words:
    return (*items[:place], spare, *items[place + 1 :])


def _moves(left: int, j: int) -> Iterator[tuple[Outcome, ...]]:
    """The new word stands in one of `left` places, all equally likely.

    Each of j draws gives it with probability 1/left. Exactly one may, and then the other places are settled;
    or none, where places are left.
    """
    hit = 1 / left
    found: Outcome = (j * hit * (1 - hit) ** (j - 1), 0, left - j)
    yield (found, ((1 - hit) ** j, left - j, 0)) if j < left else (found,)


ANY_PLACE = Game(opening=lambda answers: (answers.length, 0), places=lambda left: left, moves=_moves)
