"""`jaxmodels train`: a recipe becomes a model that loads, and a second call goes on where the first ended."""

import json
import os
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxmodels as jm
from jaxmodels.layers.spec import walk
from jaxmodels.training.denoisers.recipe import DENOISER_RECIPES
from jaxmodels.training.export import export_run
from jaxmodels.training.images.recipe import IMAGE_RECIPES
from jaxmodels.training.loop import load_run
from jaxmodels.training.metrics import read_metrics
from jaxmodels.training.recipe import list_recipes
from jaxmodels.training.run_directory import only_trainer


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory, config_values):
    directory = tmp_path_factory.mktemp("data")
    for name in ("train", "held_out"):
        lines = [f"def {name}{i}(x, y):\n    return x + {i} * y\n" for i in range(30)]
        (directory / f"{name}.py").write_text("\n\n".join(lines))
    changed = {"vocab_size": 280, "num_hidden_layers": 1, "eos_token_id": 7, "initializer_range": 0.1}
    recipe = {
        "model": config_values | changed,
        "train_files": [str(directory / "train.py")],
        "held_out_files": [str(directory / "held_out.py")],
        "schedule": {"kind": "warmup_cosine", "peak": 0.02, "warmup_steps": 1, "total_steps": 3},
        "sequence_length": 16,
        "batch_size": 2,
        "evaluation_windows": 4,
    }
    file = directory / "recipe.json"
    file.write_text(json.dumps(recipe))
    return file


@pytest.fixture(scope="module")
def output(recipe_file, tmp_path_factory):
    from jaxmodels.training.loop import train
    from jaxmodels.training.recipe import load_recipe

    directory = tmp_path_factory.mktemp("run") / "out"
    train(load_recipe(recipe_file), directory)
    return directory


def test_list(run):
    listed = run("train", "--list").stdout.split()
    assert listed == sorted(listed)
    of_images = (name for kind in (DENOISER_RECIPES, IMAGE_RECIPES) for name in kind.names())
    assert {*list_recipes(), *of_images} <= set(listed)


@pytest.mark.sweep
def test_a_run_is_gone_on_with_and_exported(run, recipe_file, output):
    """The run in `output` is finished: the command must find that, train no step, and write the model."""
    steps = [record["step"] for record in read_metrics(output / "metrics.jsonl")]
    result = run("train", recipe_file, output)
    assert [record["step"] for record in read_metrics(output / "metrics.jsonl")] == steps
    assert f"jaxmodels generate --model {output / 'model'}" in result.stderr
    model, trained = jm.load(output / "model", "bfloat16"), load_run(output)
    arrays = dict(walk(model.params))
    for path, leaf in walk(trained.params):
        np.testing.assert_array_equal(arrays[path], leaf.astype(arrays[path].dtype), err_msg=path)
    assert model.tokenizer.encode("def f(x)") == trained.tokenizer.encode("def f(x)").ids
    assert model.tokenizer.eos_id == 0


def test_the_exported_config_ends_texts_with_the_token_of_the_data(output, tmp_path):
    export_run(output, tmp_path / "model", "float32")
    values = json.loads((tmp_path / "model" / "config.json").read_text())
    assert [values[f"{role}_token_id"] for role in ("bos", "eos", "pad")] == [0, 0, 0]
    assert values["dtype"] == "float32" and values["initializer_range"] == 0.1
    model = jm.load(tmp_path / "model")
    assert model.generation.eos_token_ids == (0,) and model.generation.pad_token_id == 0
    jax.tree.map(np.testing.assert_array_equal, model.params, load_run(output).params)


def test_both_arguments_are_needed(run, recipe_file):
    assert "needs RECIPE and OUTPUT_DIR" in run("train", recipe_file, code=2).stderr


def test_an_unknown_recipe_lists_the_known_ones(run, tmp_path):
    error = run("train", "nope", tmp_path / "out", code=2).stderr
    assert "'nope'" in error and all(name in error for name in list_recipes())
    assert not (tmp_path / "out").exists()


def test_a_directory_without_a_run(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no recipe\.json"):
        export_run(tmp_path, tmp_path / "model")


def test_a_run_in_use_is_told_in_one_line(run, recipe_file, tmp_path):
    with only_trainer(tmp_path / "out"):
        error = run("train", recipe_file, tmp_path / "out", code=2).stderr
    assert "is being trained in by another process" in error and len(error.splitlines()) == 1


def test_divergence_is_told_in_one_line_and_nothing_is_exported(run, recipe_file, tmp_path):
    recipe = json.loads(recipe_file.read_text())
    recipe["schedule"]["peak"] = 1e38
    (tmp_path / "recipe.json").write_text(json.dumps(recipe))
    error = run("train", tmp_path / "recipe.json", tmp_path / "out", code=2).stderr.splitlines()
    assert error[-1].startswith("jaxmodels: error: training diverged in step 2")
    assert not (tmp_path / "out" / "model").exists()


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("recipe.json", b"", r"recipe.json' is not JSON"),
        ("recipe.json", b"\xff", r"recipe.json' is not JSON"),
        ("data.json", b"{", r"data.json is not valid JSON"),
        ("tokenizer/tokenizer.json", b"{}", r"tokenizer.json' is not a tokenizer"),
    ],
)
def test_damaged_files_of_a_run_are_told_in_one_line(
    run, recipe_file, output, tmp_path, name, content, message
):
    shutil.copytree(output, tmp_path / "out")
    (tmp_path / "out" / name).write_bytes(content)
    assert message in run("train", recipe_file, tmp_path / "out", code=2).stderr


@pytest.mark.sweep
def test_a_full_disk_is_told_in_one_line_and_the_run_goes_on_later(run, recipe_file, tmp_path):
    """In a process of its own, whose files cannot grow beyond 30 kB: less than the parameters take."""
    command = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (30_000, 30_000)); "
    command += "from jaxmodels.cli import main; main()"
    environment = {key: value for key, value in os.environ.items() if not key.startswith("JAX_COMPILATION")}
    done = subprocess.run(
        [sys.executable, "-c", command, "train", recipe_file, tmp_path / "out"],
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    # Threads of tensorstore, of which one may still report to Orbax's closed event loop, are not ours.
    not_ours = done.stderr.count("RuntimeError: Event loop is closed")
    assert done.stderr.count("Traceback") == not_ours, done.stderr
    (told,) = (line for line in done.stderr.splitlines() if line.startswith("jaxmodels: error: "))
    assert "checkpoints' cannot be written" in told
    run("train", recipe_file, tmp_path / "out")
