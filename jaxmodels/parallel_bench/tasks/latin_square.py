"""Write a Latin square: each word once in every row and every column."""

import itertools
from collections.abc import Sequence
from random import Random

from jaxmodels.parallel_bench.questions import Listed, Question, Words, listed

ORDER = 3


def latin_square(random: Random, items: list[str], spare: str) -> Question:
    """A square of the first three items, row by row."""
    symbols = items[:ORDER]
    return Question(prompt=f"latin {listed(symbols)} =", answers=Listed(tuple(squares(symbols))))


def squares(symbols: Sequence[str]) -> list[Words]:
    """All Latin squares over the symbols, each row by row."""
    rows = list(itertools.permutations(symbols))
    return [
        tuple(itertools.chain.from_iterable(square))
        for square in itertools.product(rows, repeat=len(symbols))
        if all(len(set(column)) == len(symbols) for column in zip(*square, strict=True))
    ]
