import dataclasses
import io
import json
import os

import jax
import numpy as np
import pytest
from full_disk import at_most
from rich.console import Console
from toy_language_model import ToyModel

from jaxmodels.training import loop
from jaxmodels.training.divergence import Diverged
from jaxmodels.training.loop import load_run, train
from jaxmodels.training.metrics import read_metrics
from jaxmodels.training.optimizer import AdamW, WarmupCosine
from jaxmodels.training.recipe import Recipe
from jaxmodels.training.run_directory import only_trainer
from jaxmodels.training.train import init_state, make_train_step

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


@pytest.mark.sweep
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


@pytest.mark.sweep
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


def test_a_directory_is_free_until_a_run_has_begun_in_it(recipe, tmp_path):
    """Whoever corrects a recipe that failed need not look for another directory."""
    quiet = Console(file=io.StringIO())
    for wrong, message in (
        ({"held_out_files": ("nowhere/*",)}, "no file matches 'nowhere/"),
        ({"sequence_length": 10**6}, "are fewer than one window"),
        ({"batch_size": 2**30}, r"a step of batch_size=1073741824 windows .* needs [\d,]+ bytes"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            train(dataclasses.replace(recipe, **wrong), tmp_path / "run", model=MODEL, console=quiet)
    (tmp_path / "a.py").write_text("changed = True\n" * 200)
    train(recipe, tmp_path / "run", model=MODEL, console=quiet)
    with pytest.raises(ValueError, match=r"output_dir .*a\.py' cannot be made a directory"):
        train(recipe, tmp_path / "a.py", model=MODEL, console=quiet)


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


# Sizes at which the recipe is refused, and the tokenizer.
@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("num_bytes", [100, 3_000])
def test_a_run_that_a_full_disk_stopped_goes_on(recipe, tmp_path, num_bytes):
    quiet = Console(file=io.StringIO())
    with at_most(num_bytes), pytest.raises(OSError, match="File too large"):
        train(recipe, tmp_path / "run", model=MODEL, console=quiet)
    assert not [path.name for path in (tmp_path / "run").iterdir() if ".tmp-" in path.name]
    train(recipe, tmp_path / "run", model=MODEL, console=quiet)
    assert (tmp_path / "run" / "result.json").exists()


# With these learning rates the second step computes NaN.
DIVERGING = WarmupCosine(peak=1e38, warmup_steps=2, total_steps=12)


@pytest.mark.parametrize(
    ("log_every", "checkpoint_every", "kept"), [(1, 1, 1), (12, 1, 1), (12, 12, None), (4, 12, None)]
)
def test_training_that_diverges_stops_and_keeps_what_is_finite(
    recipe, tmp_path, log_every, checkpoint_every, kept
):
    """Wherever the next look at the numbers is, the step that diverged is named and nothing of it written."""
    run = tmp_path / "run"
    diverging = dataclasses.replace(
        recipe, schedule=DIVERGING, log_every=log_every, checkpoint_every=checkpoint_every, evaluate_every=12
    )
    what_is_kept = f"of step {kept} and finite" if kept else "no checkpoint was written"
    with pytest.raises(Diverged, match=rf"diverged in step 2 \(loss .*{what_is_kept}"):
        train(diverging, run, model=MODEL, console=Console(file=io.StringIO()))
    assert not (run / "result.json").exists()
    assert all(np.isfinite(record.get("loss", 0)) for record in read_metrics(run / "metrics.jsonl"))
    if kept:
        params = load_run(run, model=MODEL).params
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))


def test_a_step_says_whether_its_numbers_are_finite():
    optimizer = AdamW().build(DIVERGING, MODEL.spec())
    step = make_train_step(MODEL, optimizer, DIVERGING)
    state, tokens = init_state(MODEL, optimizer), np.ones((2, 8), np.int32)
    state, metrics = step(state, tokens)
    assert metrics["finite"] == 1
    state.params["head"] = state.params["head"].at[0, 0].set(np.nan)
    assert step(state, tokens)[1]["finite"] == 0


@pytest.mark.sweep
def test_a_run_goes_on_from_the_intact_checkpoint(recipe, tmp_path):
    quiet = Console(file=io.StringIO())
    whole, score = train(recipe, tmp_path / "run", model=MODEL, console=quiet)
    checkpoints = tmp_path / "run" / "checkpoints"
    (checkpoints / "12" / "default" / "_METADATA").write_text("{")
    with pytest.warns(UserWarning, match=r"checkpoints/12' cannot be read and is skipped"):
        resumed, resumed_score = train(recipe, tmp_path / "run", model=MODEL, console=quiet)
    jax.tree.map(np.testing.assert_array_equal, resumed.params, whole.params)
    assert resumed_score == score
    assert [record["step"] for record in read_metrics(tmp_path / "run" / "metrics.jsonl")][-2:] == [10, 12]
    assert (checkpoints / "unreadable-12-1").is_dir()


@pytest.mark.sweep
def test_two_trainers_exclude_each_other(recipe, tmp_path):
    quiet = Console(file=io.StringIO())
    with only_trainer(tmp_path / "run"):
        with pytest.raises(
            ValueError, match=r"run' is being trained in by another process; wait.*output_dir"
        ):
            train(recipe, tmp_path / "run", model=MODEL, console=quiet)
        assert os.listdir(tmp_path / "run") == [".lock"]
        train(recipe, tmp_path / "other", model=MODEL, console=quiet)
    train(recipe, tmp_path / "run", model=MODEL, console=quiet)
