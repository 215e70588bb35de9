"""`jaxmodels bench depth`."""

import json

import pytest

SMALL = ("--texts", 1, "--prompt", 4, "--new", 6, "--rounds", 1)


@pytest.mark.sweep
def test_policies_are_compared(run, tmp_path):
    text = tmp_path / "text.py"
    text.write_text("import os\nimport sys\nimport json\nimport re\n", "utf-8")
    found = run("bench", "depth", "tiny-qwen3", *SMALL, "--kind", "layer skipping", "--json", "--file", text)
    report = json.loads(found.stdout)
    plain, *skipping = report["trials"]
    assert report["blocks"] == plain["blocks"] and plain["agreement"] == 1.0
    assert skipping and all(trial["blocks"] < plain["blocks"] for trial in skipping)
    assert "layer skipping, 1.25" in found.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("tiny-llada",), "fills in masks"),
        (("tiny-qwen3", "--kind", "maximal"), "no kind of policy"),
        (("tiny-qwen3", "--policy", "tiny-qwen3"), "describes no policy of depth"),
        (("tiny-qwen3", "--prompt", "999999"), "prompts were asked for"),
    ],
)
def test_contests_that_are_refused(run, options, message):
    assert message in run("bench", "depth", *options, code=2).stderr
