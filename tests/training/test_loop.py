import dataclasses
import io
import json

import jax
import numpy as np
import pytest
from rich.console import Console
from toy_language_model import ToyModel

from jaxmodels.training import loop
from jaxmodels.training.loop import load_run, train
from jaxmodels.training.metrics import read_metrics
from jaxmodels.training.optimizer import WarmupCosine
from jaxmodels.training.recipe import Recipe

MODEL = ToyModel(vocab_size=280)


@pytest.fixture
def recipe(tmp_path):
    for name in ("a.py", "b.py", "held_out.py"):
        lines = [f"def {name[0]}{i}(x, y):\n    return x + {i} * y\n" for i in range(30)]
        (tmp_path / name).write_text("\n\n".join(lines))
    return Recipe(
        model={"vocab_size": 280},
        train_files=(str(tmp_path / "[ab].py"),),
        held_out_files=(str(tmp_path / "held_out.py"),),
        schedule=WarmupCosine(peak=0.02, warmup_steps=2, total_steps=12),
        sequence_length=16,
        batch_size=4,
        accumulate=2,
        evaluate_every=5,
        checkpoint_every=4,
        log_every=2,
        evaluation_windows=8,
    )


class Killed(Exception):
    pass


def kill_at(monkeypatch, step):
    """Makes the run die in the evaluation after `step`, later than the last checkpoint."""
    append = loop.append_metrics

    def dying_append(path, record):
        append(path, record)
        if record["step"] == step:
            raise Killed

    monkeypatch.setattr(loop, "append_metrics", dying_append)


def test_a_killed_run_resumes_exactly(recipe, tmp_path, monkeypatch):
    quiet = Console(file=io.StringIO())
    whole, score = train(recipe, tmp_path / "whole", model=MODEL, console=quiet)
    with monkeypatch.context() as patch:
        kill_at(patch, 10)
        with pytest.raises(Killed):
            train(recipe, tmp_path / "killed", model=MODEL, console=quiet)
    assert read_metrics(tmp_path / "killed" / "metrics.jsonl")[-1]["step"] == 10
    resumed, resumed_score = train(recipe, tmp_path / "killed", model=MODEL, console=quiet)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    assert resumed_score == score
    logs = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    assert [r["step"] for r in logs[0]] == [2, 4, 5, 6, 8, 10, 12]
    timeless = [
        [{k: v for k, v in r.items() if k not in ("seconds", "tokens_per_second")} for r in log]
        for log in logs
    ]
    assert timeless[0] == timeless[1]
    seconds = [record["seconds"] for record in logs[1]]
    assert seconds == sorted(seconds)


def test_the_output_directory_tells_the_whole_run(recipe, tmp_path):
    screen = io.StringIO()
    run, score = train(recipe, tmp_path / "run", model=MODEL, console=Console(file=screen, width=200))
    log = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert log[-1]["loss"] < log[0]["loss"]
    assert log[-1]["learning_rate"] == pytest.approx(float(recipe.schedule(11)), rel=1e-4)
    held_out = [record for record in log if "held_out_loss" in record]
    assert [record["step"] for record in held_out] == [5, 10, 12]
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert result["held_out_bits_per_byte"] == score.bits_per_byte
    assert result["held_out_bytes"] == (tmp_path / "held_out.py").stat().st_size
    # the periodic estimate is over the same text, cut into windows without overlap
    assert held_out[-1]["held_out_bits_per_byte"] == pytest.approx(score.bits_per_byte, rel=0.2)
    assert "step 12/12" in screen.getvalue()
    assert f"{score.bits_per_byte:.4f} bits per byte" in screen.getvalue()
    again = load_run(tmp_path / "run", model=MODEL)
    assert again.recipe == recipe
    jax.tree.map(np.testing.assert_array_equal, again.params, run.params)
    assert again.tokenizer.to_str() == run.tokenizer.to_str()
    assert (tmp_path / "run" / "loss.png").exists()


def test_a_directory_belongs_to_one_recipe_and_its_data(recipe, tmp_path):
    quiet = Console(file=io.StringIO())
    train(recipe, tmp_path / "run", model=MODEL, console=quiet)
    with pytest.raises(ValueError, match=r"another recipe.*seed: 0 -> 1"):
        train(dataclasses.replace(recipe, seed=1), tmp_path / "run", model=MODEL, console=quiet)
    (tmp_path / "a.py").write_text("changed = True\n")
    with pytest.raises(ValueError, match="the data changed"):
        train(recipe, tmp_path / "run", model=MODEL, console=quiet)


def test_unusable_data_is_named(recipe, tmp_path):
    quiet = Console(file=io.StringIO())
    both = dataclasses.replace(recipe, held_out_files=recipe.train_files)
    with pytest.raises(ValueError, match=r"a\.py.*also one of train_files"):
        train(both, tmp_path / "1", model=MODEL, console=quiet)
    np.save(tmp_path / "t.npy", np.arange(50))
    tokens = dataclasses.replace(recipe, held_out_files=(str(tmp_path / "t.npy"),))
    with pytest.raises(ValueError, match=r"t\.npy.*need the text"):
        train(tokens, tmp_path / "2", model=MODEL, console=quiet)
    tokens = dataclasses.replace(recipe, train_files=(str(tmp_path / "t.npy"),))
    with pytest.raises(ValueError, match="no text to train one on"):
        train(tokens, tmp_path / "3", model=MODEL, console=quiet)
    short = tmp_path / "short.py"
    short.write_text("x = 1\n")
    brief = dataclasses.replace(recipe, held_out_files=(str(short),))
    with pytest.raises(ValueError, match=r"held_out_files: .*fewer than one window of sequence_length=16"):
        train(brief, tmp_path / "5", model=MODEL, console=quiet)
    with pytest.raises(FileNotFoundError, match="no run"):
        load_run(tmp_path / "4", model=MODEL)
