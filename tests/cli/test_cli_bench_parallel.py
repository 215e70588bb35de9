"""`jaxmodels bench parallel`: trials of the bundled models, where they go, and what is refused."""

import csv
import json
import re

import pytest

SMALL = ("--tasks", "copy,shuffle", "--rules", "confidence", "--questions", 4)


@pytest.mark.sweep
def test_trials_are_printed_and_written(run, tmp_path):
    pytest.importorskip("matplotlib")
    table, figure = tmp_path / "trials.csv", tmp_path / "trials.png"
    found = run("bench", "parallel", *SMALL, "--json", "--csv", table, "--plot", figure)
    trials = json.loads(found.stdout)["trials"]
    assert [(it["task"], it["rule"], it["value"]) for it in trials[:3]] == [
        ("copy", "autoregressive", None),
        ("copy", "confidence", 1.0),
        ("copy", "confidence", 2.0),
    ]
    assert {it["task"] for it in trials} == {"copy", "shuffle"}
    assert [it["calls"] for it in trials[1:7]] == [7, 4, 3, 2, 2, 1]
    assert all(it["best"] == 1 for it in trials if it["task"] == "copy")
    with open(table, encoding="utf-8") as file:
        assert [row["task"] for row in csv.DictReader(file)] == [it["task"] for it in trials]
    assert figure.read_bytes().startswith(b"\x89PNG")


def test_a_table_without_a_twin(run):
    sizes = ("--tasks", "copy", "--rules", "threshold", "--questions", 2, "--twin", "", "--temperature", 0)
    out = run("bench", "parallel", *sizes).stdout
    assert re.search(r"copy +threshold +0.9 ", out) and "autoregressive" not in out


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--tasks", "copies"), "--tasks: there is no task 'copies'; there are copy, reverse"),
        (("--rules", "thresholds"), "--rules: there is no rule 'thresholds'; there are confidence"),
        (("--questions", "0"), "count must be a whole number"),
        (("--items", "25"), "length must be a whole number"),
        (("--temperature", "-1"), "temperature must be a finite number"),
        (("--model", "tiny-llama-lists"), "predicts the next token"),
    ],
)
def test_what_is_refused(run, options, message):
    error = run("bench", "parallel", *SMALL, *options, code=2).stderr
    assert message in error
