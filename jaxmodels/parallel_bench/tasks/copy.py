"""Repeat a list: every place of the answer follows from the prompt."""

from random import Random

from jaxmodels.parallel_bench.questions import Question, listed, only


def copy(random: Random, items: list[str], spare: str) -> Question:
    """The items as they stand."""
    return Question(prompt=f"copy {listed(items)} =", answers=only(*items))
