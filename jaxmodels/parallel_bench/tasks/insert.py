"""Put one more word into a list: where is told, or left to the model."""

import itertools
import math
from collections.abc import Iterator
from random import Random

from jaxmodels.parallel_bench.optimum import Game, Outcome
from jaxmodels.parallel_bench.questions import Listed, Question, Words, listed, only
from jaxmodels.parallel_bench.vocabulary import LARGEST_PLACE


def insert_index(random: Random, items: list[str], spare: str) -> Question:
    """The spare word so that it stands at a given place, counted from 1."""
    place = random.randrange(min(len(items) + 1, LARGEST_PLACE))
    return Question(
        prompt=f"insert {spare} at {place + 1} {listed(items)} =",
        answers=only(*_inserted(items, place, spare)),
    )


def insert_random(random: Random, items: list[str], spare: str) -> Question:
    """The spare word before, between or behind the items."""
    return Question(
        prompt=f"insert {spare} at any {listed(items)} =",
        answers=Listed(tuple(_inserted(items, place, spare) for place in range(len(items) + 1))),
    )


def _inserted(items: list[str], place: int, spare: str) -> Words:
    return (*items[:place], spare, *items[place:])


def _moves(left: int, j: int) -> Iterator[tuple[Outcome, ...]]:
    """The new word stands in one of `left` places; before it the list is as it was, behind it moved by one.

    Place i shows the list as it was with probability (left - 1 - i)/left, the new word with 1/left, and the
    list moved with i/left. Places that are filled cut the others into runs: the new word is found, or stands
    in one of the runs and the places of all other runs are settled.
    """
    for chosen in itertools.combinations(range(left), j):
        before = [(left - 1 - i) / left for i in chosen]
        behind = [i / left for i in chosen]
        outcomes: list[Outcome] = []
        for k in range(j):
            outcomes.append((math.prod(before[:k]) / left * math.prod(behind[k + 1 :]), 0, left - j))
        ends = [-1, *chosen, left]
        for k, (low, high) in enumerate(itertools.pairwise(ends)):
            if run := high - low - 1:
                outcomes.append((math.prod(before[:k]) * math.prod(behind[k:]), run, left - j - run))
        yield tuple(outcomes)


ANY_PLACE = Game(opening=lambda answers: (answers.length, 0), places=lambda left: left, moves=_moves)
