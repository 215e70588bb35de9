"""Give a list in any order: every place of the answer depends on every other."""

import math
from collections.abc import Iterator
from random import Random

from jaxmodels.parallel_bench.optimum import Game, Outcome
from jaxmodels.parallel_bench.questions import Permutations, Question, listed


def shuffle(random: Random, items: list[str], spare: str) -> Question:
    """Any order of the items. The order that is given counts too, unlike in the paper's own scoring."""
    return Question(prompt=f"shuffle {listed(items)} =", answers=Permutations(tuple(items)))


def _moves(left: int, j: int) -> Iterator[tuple[Outcome, ...]]:
    """`left` words for as many places: j uniform draws must all differ."""
    yield ((math.perm(left, j) / left**j, left - j, 0),)


GAME = Game(opening=lambda answers: (answers.length, 0), places=lambda left: left, moves=_moves)
