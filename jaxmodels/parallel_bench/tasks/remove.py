"""Take one word out of a list: which is told, or left to the model."""

import itertools
import math
from collections.abc import Iterator
from random import Random

from jaxmodels.parallel_bench.optimum import Game, Outcome
from jaxmodels.parallel_bench.questions import Listed, Question, Words, listed, only
from jaxmodels.parallel_bench.vocabulary import LARGEST_PLACE


def remove_index(random: Random, items: list[str], spare: str) -> Question:
    """All items but that at a given place, counted from 1."""
    place = random.randrange(min(len(items), LARGEST_PLACE))
    return Question(prompt=f"remove {place + 1} {listed(items)} =", answers=only(*_without(items, place)))


def remove_random(random: Random, items: list[str], spare: str) -> Question:
    """All items but any one, in their order."""
    return Question(
        prompt=f"remove any {listed(items)} =",
        answers=Listed(tuple(_without(items, place) for place in range(len(items)))),
    )


def _without(items: list[str], place: int) -> Words:
    return (*items[:place], *items[place + 1 :])


def _moves(left: int, j: int) -> Iterator[tuple[Outcome, ...]]:
    """One of `left` successive words is missing, so that left - 1 places show a word or the next one.

    Place i shows the next word, because the missing one is not behind it, with probability (i + 1)/left.
    Places that are filled cut the words into runs, one of which has the missing word; the places of the
    others are settled.
    """
    for chosen in itertools.combinations(range(left - 1), j):
        moved = [(i + 1) / left for i in chosen]
        ends = [0, *(i + 1 for i in chosen), left]
        yield tuple(
            (
                math.prod(1 - p for p in moved[:k]) * math.prod(moved[k:]),
                high - low,
                left - 1 - j - (high - low - 1),
            )
            for k, (low, high) in enumerate(itertools.pairwise(ends))
        )


ANY_PLACE = Game(
    opening=lambda answers: (answers.length + 1, 0), places=lambda left: max(left - 1, 0), moves=_moves
)
