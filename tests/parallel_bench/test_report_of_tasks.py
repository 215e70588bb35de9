"""Trials beside what is within reach, as rows, a table, comma-separated values and a figure."""

import csv
import io
import re

import pytest
from rich.console import Console

from jaxmodels.parallel_bench.measure import AUTOREGRESSIVE, Trial
from jaxmodels.parallel_bench.plot import plot
from jaxmodels.parallel_bench.report import optimum, rows, table, write_csv

TRIALS = [
    Trial(task="shuffle", rule="confidence", value=2.0, canvas=7, accuracy=0.5, calls=4.0),
    Trial(task="copy", rule=AUTOREGRESSIVE, canvas=7, accuracy=1.0, calls=7.0),
    Trial(task="copy", rule="threshold", value=0.9, canvas=7, accuracy=0.75, calls=1.25),
]


def test_what_is_within_reach_of_a_shuffle():
    best = optimum("shuffle", 4, 5)
    assert best.at(1) == pytest.approx(24 / 4**4)
    assert best.at(4) == best.at(99) == pytest.approx(1)
    # Two words and then one by one: right in 3 of 4 cases, in 3 calls, and else told by the first of 2 calls.
    assert best.at(2.75) == pytest.approx(0.75)
    assert best.by_plan[0] == pytest.approx(1) and best.by_plan[4] == pytest.approx(24 / 4**4)
    assert sorted(best.by_plan, reverse=True) == pytest.approx(best.by_plan)


def test_more_calls_never_reach_less():
    for task in ("insert_random", "remove_random", "replace_random", "latin_square"):
        points = optimum(task, 4, 10).by_sight
        assert sorted(it.accuracy for it in points) == [it.accuracy for it in points]
        assert points[0].calls == 1


def test_rows_are_sorted_by_task_and_tell_what_is_within_reach():
    found = rows(TRIALS, 6)
    assert [(row.task, row.rule) for row in found] == [
        ("copy", AUTOREGRESSIVE),
        ("copy", "threshold"),
        ("shuffle", "confidence"),
    ]
    assert [row.knob for row in found] == [None, "threshold", "places per call"]
    assert [row.best for row in found[:2]] == [1, 1]
    assert found[2].best == pytest.approx(optimum("shuffle", 6, 7).at(4))
    assert found[1].tokens_per_call == pytest.approx(7 / 1.25)


def test_a_table_and_values_hold_every_trial(tmp_path):
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(table(TRIALS, 6))
    text = console.export_text()
    assert re.search(r"copy +threshold +0.9 +0.750 +1.000 +1.250 +5.600", text)
    write_csv(TRIALS, 6, tmp_path / "trials.csv")
    with open(tmp_path / "trials.csv", encoding="utf-8") as file:
        written = list(csv.DictReader(file))
    assert [row["task"] for row in written] == ["copy", "copy", "shuffle"]
    assert written[0]["value"] == "" and float(written[1]["calls"]) == 1.25


def test_a_figure_has_a_panel_for_each_task(tmp_path):
    pytest.importorskip("matplotlib")
    plot(TRIALS, 6, tmp_path / "trials.svg")
    figure = (tmp_path / "trials.svg").read_text("utf-8")
    assert figure.count('id="axes_') == 2
    for text in ("copy", "shuffle", "best of a plan", "threshold", "autoregressive"):
        assert f"<!-- {text} -->" in figure
