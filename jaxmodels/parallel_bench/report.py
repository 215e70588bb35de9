"""Trials as a table and as comma-separated values, beside what independent draws can reach."""

import csv
import functools
import io
import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from rich import box
from rich.table import Table

from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.parallel_bench.measure import Trial
from jaxmodels.parallel_bench.optimum import Point, frontier, per_call
from jaxmodels.parallel_bench.rules import RULES
from jaxmodels.parallel_bench.tasks import TASKS, questions

# Of a call, in accuracy: where the frontier of a task is looked at.
PRICES = tuple(float(price) for price in np.geomspace(1e-4, 1, 60))


@dataclass(frozen=True)
class Optimum:
    """What a model of exact probabilities reaches on a task, by calls per answer.

    Attributes:
        by_plan: the accuracy where every call fills k places, for k = 1, 2 and so on up to the canvas.
        by_sight: the frontier of policies that choose places by what they have seen.
    """

    by_plan: tuple[float, ...]
    by_sight: tuple[Point, ...]

    def at(self, calls: float) -> float:
        """The most that any policy reaches with so many calls on average."""
        points = self.by_sight
        return float(np.interp(calls, [it.calls for it in points], [it.accuracy for it in points]))


@functools.cache
def optimum(task: str, length: int, canvas: int) -> Optimum:
    """Of lists of `length` items, where each word is a token and the canvas has `canvas` places."""
    (question,) = questions(task, 1, length)
    game, answers = TASKS[task].game, question.answers
    settled = canvas - answers.length
    return Optimum(
        by_plan=tuple(per_call(game, answers, k, settled) for k in range(1, canvas + 1)),
        by_sight=tuple(frontier(game, answers, PRICES, settled)),
    )


@dataclass(frozen=True)
class Row:
    """A trial as it is shown; the names of the fields are those of the columns.

    Attributes:
        best: the largest accuracy within reach in as many calls.
        calls: per answer.
    """

    task: str
    rule: str
    knob: str | None
    value: float | None
    accuracy: float
    best: float
    calls: float
    tokens_per_call: float
    canvas: int


def rows(trials: Sequence[Trial], length: int) -> list[Row]:
    """The trials on lists of `length` items, task by task."""
    found = [
        Row(
            task=it.task,
            rule=it.rule,
            knob=RULES[it.rule].knob if it.rule in RULES else None,
            value=it.value,
            accuracy=it.accuracy,
            best=optimum(it.task, length, it.canvas).at(it.calls) if it.rule in RULES else 1.0,
            calls=it.calls,
            tokens_per_call=it.tokens_per_call,
            canvas=it.canvas,
        )
        for it in trials
    ]
    return sorted(found, key=lambda row: list(TASKS).index(row.task))


def table(trials: Sequence[Trial], length: int) -> Table:
    """The trials as `rich` prints them."""
    made = Table(
        "task", "rule",
        title="Right answers against tokens per call of the model",
        caption="value: of the rule's knob; best: the accuracy within reach in as many calls",
        box=box.SIMPLE_HEAD,
    )  # fmt: skip
    for name in ("value", "accuracy", "best", "calls", "tokens per call"):
        made.add_column(name, justify="right")
    for _, of_task in itertools.groupby(rows(trials, length), key=lambda row: row.task):
        for row in of_task:
            numbers = (row.accuracy, row.best, row.calls, row.tokens_per_call)
            value = "" if row.value is None else f"{row.value:g}"
            made.add_row(row.task, row.rule, value, *(f"{it:.3f}" for it in numbers))
        made.add_section()
    return made


def write_csv(trials: Sequence[Trial], length: int, path: str | Path) -> None:
    """One line per row, under the names of the fields of `Row`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [it.name for it in fields(Row)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows(trials, length))
    replace_file(Path(path), text.getvalue())
