"""Put a list in alphabetical order: every place of the answer follows from the prompt."""

from random import Random

from jaxmodels.parallel_bench.questions import Question, listed, only


def sort(random: Random, items: list[str], spare: str) -> Question:
    """The items in alphabetical order."""
    return Question(prompt=f"sort {listed(items)} =", answers=only(*sorted(items)))
