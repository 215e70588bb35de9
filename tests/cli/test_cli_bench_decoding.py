"""`jaxmodels bench decoding` and `generate --strategy auto`."""

import json

import pytest

from jaxmodels.decoding_bench import auto, contestants

SMALL = ("--prompts", 1, "--prompt", 8, "--new", 6, "--rounds", 1)


@pytest.mark.sweep
def test_strategies_are_compared(run, tmp_path):
    pytest.importorskip("matplotlib")
    figure, text = tmp_path / "speed.png", tmp_path / "text.py"
    text.write_text("import os\nimport sys\nimport json\nimport re\n", "utf-8")
    found = run("bench", "decoding", "tiny-qwen3", *SMALL, "--json", "--plot", figure, "--file", text)
    trials = {trial["name"]: trial for trial in json.loads(found.stdout)["trials"]}
    assert trials["autoregressive"]["speed"] == 1.0
    assert all(trial["agreement"] == 1.0 for trial in trials.values() if trial["keeps_text"])
    assert "prompt lookup, 8" in trials and "tiny-mamba2, 4" in trials
    assert figure.read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def few_contestants(monkeypatch):
    """Two of a field: compiling all of them takes minutes."""
    for module in (auto, contestants):
        whole = module.contestants
        monkeypatch.setattr(module, "contestants", lambda *given, whole=whole: whole(*given)[:2])


@pytest.mark.sweep
@pytest.mark.usefixtures("few_contestants")
def test_draws_are_compared_in_a_table(run):
    out = run("bench", "decoding", "tiny-mamba2", *SMALL, "--temperature", 1).stdout
    assert "distance" in out and "agreement" not in out


@pytest.mark.sweep
@pytest.mark.usefixtures("few_contestants")
def test_auto_says_what_it_took(run):
    found = run("generate", "import os", "--strategy", "auto", "--max-new-tokens", 6, "--json")
    assert "strategy: " in found.stderr and "autoregressive 1.00" in found.stderr
    plain = run("generate", "import os", "--max-new-tokens", 6, "--json")
    assert json.loads(found.stdout)["tokens"] == json.loads(plain.stdout)["tokens"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("tiny-llada",), "fills in masks"),
        (("tiny-qwen3", "--new", "0"), "--new"),
        (("tiny-qwen3", "--prompt", "999999"), "prompts were asked for"),
    ],
)
def test_contests_that_are_refused(run, options, message):
    error = run("bench", "decoding", *options, code=2).stderr
    assert message in error
