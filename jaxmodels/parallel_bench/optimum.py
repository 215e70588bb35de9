"""How well a task can be done by independent draws: the accuracy of a model whose probabilities are exact.

Such a model knows, at every place, the distribution of the word among the acceptable answers that agree with
what is filled in already, all of them equally likely. What it cannot do is draw several places jointly: each
place filled in the same call is drawn from its own distribution. That is the conditional independence which
parallel decoding assumes, and the loss below is what it costs the best model there is, the total correlation
of the answers' words in the terms of ParallelBench (https://arxiv.org/abs/2510.04767). The formulas here were
derived anew; for lists of all places at once they are those of the paper, such as n!/n**n for shuffling.

A decoder is a policy over states. A state has `open` places, whose words are not determined yet, in a form
that depends on the task, and `settled` ones, which have one possible word left and can be filled at no risk
in any call. A policy chooses places before their words are drawn; a rule that sees the draws first and passes
over unlikely ones can do better. Two questions are answered by dynamic programming over the states, choosing
the best places each time:

* `per_call`: the accuracy where every call fills exactly k places, as a plan of steps does.
* `frontier`: the accuracy against the mean number of calls of policies that choose how many places to fill
  by what they have seen, as rules with thresholds do.
"""

import functools
import itertools
import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

from jaxmodels.parallel_bench.questions import Answers, Words

# What may follow: its probability, what is open then, and how many open places became settled.
Outcome: TypeAlias = tuple[float, Any, int]


@dataclass(frozen=True)
class Game:
    """A task as a decoder meets it.

    Attributes:
        opening: what is open in the answers to a question, and how many places are settled from the start.
        places: how many places are open in what is `open`; 0 where all are determined.
        moves: the ways to fill j of these places in one call. Each is the outcomes that an acceptable answer
            still agrees with; what is missing to a probability of 1 is failure.
    """

    opening: Callable[[Answers], tuple[Any, int]]
    places: Callable[[Any], int]
    moves: Callable[[Any, int], Iterable[tuple[Outcome, ...]]]


@dataclass(frozen=True, order=True)
class Point:
    """Mean calls per answer, and the share of answers that are right."""

    calls: float
    accuracy: float


def _listed_moves(open_answers: tuple[Words, ...], j: int) -> Iterator[tuple[Outcome, ...]]:
    """Any set of answers that is written out, each without the places that are filled."""
    size, count = len(open_answers[0]), len(open_answers)
    for chosen in itertools.combinations(range(size), j):
        groups: dict[Words, list[Words]] = {}
        for answer in open_answers:
            groups.setdefault(tuple(answer[i] for i in chosen), []).append(
                tuple(word for i, word in enumerate(answer) if i not in chosen)
            )
        shares = [
            {
                word: sum(answer[i] == word for answer in open_answers) / count
                for word in {a[i] for a in open_answers}
            }
            for i in chosen
        ]
        yield tuple(
            (
                math.prod(share[word] for share, word in zip(shares, words, strict=True)),
                *_without_settled(tuple(answers)),
            )
            for words, answers in groups.items()
        )


def _written_out(answers: Answers) -> tuple[tuple[Words, ...], int]:
    """What is open in answers of any kind, and how many places are settled from the start."""
    return _without_settled(tuple(answers))


def _without_settled(answers: tuple[Words, ...]) -> tuple[tuple[Words, ...], int]:
    """The answers without the places where all agree, with words named by their order of appearance."""
    size = len(answers[0])
    kept = [i for i in range(size) if len({answer[i] for answer in answers}) > 1]
    names: dict[str, str] = {}
    left = [tuple(names.setdefault(answer[i], str(len(names))) for i in kept) for answer in sorted(answers)]
    return tuple(sorted(left)), size - len(kept)


LISTED = Game(opening=_written_out, places=lambda answers: len(answers[0]), moves=_listed_moves)


def per_call(game: Game, answers: Answers, k: int, settled: int = 0) -> float:
    """The best accuracy where every call but the last fills exactly `k` places.

    Args:
        game: of the task.
        answers: to a question of the task.
        k: places per call, at least 1.
        settled: places behind the answer that are known from the start, such as that of the end token.
    """

    @functools.cache
    def value(left: Any, settled: int) -> float:
        places = game.places(left)
        if k >= places + settled:
            return max(sum(p for p, _, _ in way) for way in game.moves(left, places)) if places else 1.0
        best = value(left, settled - k) if settled >= k else 0.0
        for j in range(max(1, k - settled), min(k, places) + 1):
            for way in game.moves(left, j):
                best = max(best, sum(p * value(then, settled - (k - j) + new) for p, then, new in way))
        return best

    left, known = game.opening(answers)
    return value(left, known + settled)


def frontier(game: Game, answers: Answers, prices: Iterable[float], settled: int = 0) -> list[Point]:
    """The best trade of accuracy against mean calls, one point for each price of a call.

    A point maximises accuracy - price * calls over all policies. No policy lies above the polygon through the
    points of all prices from 0 to 1, because policies can be mixed. A policy whose draws no acceptable answer
    agrees with any longer fills what is left in one more call.

    Args:
        game, answers, settled: as for `per_call`.
        prices: of a call, in accuracy.
    """
    opening, known = game.opening(answers)

    @functools.cache
    def ways(left: Any) -> set[tuple[bool, frozenset[Outcome]]]:
        places = game.places(left)
        every = ((j < places, way) for j in range(1, places + 1) for way in game.moves(left, j))
        return {(leaves_some, _merged(way)) for leaves_some, way in every}

    return sorted({_best(game, ways, opening, known + settled > 0, price) for price in prices})


def _merged(way: Iterable[Outcome]) -> frozenset[Outcome]:
    """The outcomes of a way with those added up after which the same is open."""
    total: dict[tuple[Any, int], float] = {}
    for p, then, new in way:
        total[then, new] = total.get((then, new), 0.0) + p
    return frozenset((round(p, 15), then, new) for (then, new), p in total.items())


def _best(
    game: Game,
    ways: Callable[[Any], set[tuple[bool, frozenset[Outcome]]]],
    opening: Hashable,
    settled: bool,
    price: float,
) -> Point:
    """The point of one price. `ways` are those to fill open places, each with whether it leaves any of them;
    `settled`: whether any place is."""

    @functools.cache
    def value(left: Any, settled: bool) -> Point:
        if not game.places(left):
            return Point(float(settled), 1.0)
        return max(
            (_follow(*way) for way in ways(left)), key=lambda point: point.accuracy - price * point.calls
        )

    def _follow(leaves_some: bool, way: frozenset[Outcome]) -> Point:
        calls, accuracy, failed = 1.0, 0.0, 1.0
        for p, then, new in way:
            point = value(then, new > 0)
            calls, accuracy, failed = calls + p * point.calls, accuracy + p * point.accuracy, failed - p
        return Point(calls + failed * leaves_some, accuracy)

    return value(opening, settled)
