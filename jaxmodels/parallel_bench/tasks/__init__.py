"""The tasks by name: how the questions of each are made.

They are the list tasks of ParallelBench (https://arxiv.org/abs/2510.04767, "waiting line", and its Latin
square, here of order 3) in a notation of few words. `replace_all` is added: it has one answer however many
places it changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from jaxmodels.checks import whole
from jaxmodels.parallel_bench.optimum import LISTED, Game
from jaxmodels.parallel_bench.questions import Question
from jaxmodels.parallel_bench.tasks import insert, remove, replace, shuffle
from jaxmodels.parallel_bench.tasks.copy import copy
from jaxmodels.parallel_bench.tasks.latin_square import latin_square
from jaxmodels.parallel_bench.tasks.reverse import reverse
from jaxmodels.parallel_bench.tasks.sort import sort
from jaxmodels.parallel_bench.vocabulary import NAMES


@dataclass(frozen=True)
class Task:
    """One kind of question.

    Attributes:
        ask: makes a question of a random source, distinct items, and a word that is none of them.
        game: what its optimum follows from. That of answers written out serves where they are few.
    """

    ask: Callable[[Random, list[str], str], Question]
    game: Game = LISTED


TASKS = {
    "copy": Task(copy),
    "reverse": Task(reverse),
    "sort": Task(sort),
    "replace_index": Task(replace.replace_index),
    "replace_all": Task(replace.replace_all),
    "insert_index": Task(insert.insert_index),
    "remove_index": Task(remove.remove_index),
    "replace_random": Task(replace.replace_random, replace.ANY_PLACE),
    "insert_random": Task(insert.insert_random, insert.ANY_PLACE),
    "remove_random": Task(remove.remove_random, remove.ANY_PLACE),
    "shuffle": Task(shuffle.shuffle, shuffle.GAME),
    "latin_square": Task(latin_square),
}
SHORTEST, LONGEST = 4, 24  # items of a list


def ask(task: str, length: int, random: Random) -> Question:
    """A question of the task about a list of `length` items."""
    *items, spare = random.sample(NAMES, length + 1)
    return TASKS[task].ask(random, items, spare)


def questions(task: str, count: int, length: int, seed: int = 0) -> list[Question]:
    """Questions of a task about lists of `length` items, the same for the same arguments.

    The first of them are the same for every `count`.

    Raises:
        ValueError: there is no such task, or a number is out of range.
    """
    check_tasks([task])
    whole("count", count, low=1)
    whole("length", length, low=SHORTEST, high=LONGEST)
    whole("seed", seed)
    return [ask(task, length, Random(f"{seed}/{task}/{length}/{index}")) for index in range(count)]


def check_tasks(names: Sequence[str]) -> None:
    """Raises ValueError if one of the names is no task's."""
    for name in names:
        if name not in TASKS:
            raise ValueError(f"there is no task {name!r}; there are {', '.join(TASKS)}")
