"""Turn a list round: every place of the answer follows from the prompt."""

from random import Random

from jaxmodels.parallel_bench.questions import Question, listed, only


def reverse(random: Random, items: list[str], spare: str) -> Question:
    """The items from the last to the first."""
    return Question(prompt=f"reverse {listed(items)} =", answers=only(*reversed(items)))
