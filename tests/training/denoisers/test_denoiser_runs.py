"""Runs of denoisers: resumed, descending on every objective, refused where nothing can come of them."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from rich.console import Console

import jaxmodels as jm
from jaxmodels.checkpoints.schedulers import read_scheduler
from jaxmodels.training.denoisers.export import export_denoiser
from jaxmodels.training.denoisers.recipe import DENOISER_RECIPES
from jaxmodels.training.denoisers.run import train_denoiser

OFFICIAL = {
    "hidden_size": 16, "depth": 1, "num_heads": 2, "input_size": 8, "patch_size": 4, "in_channels": 1,
    "num_classes": 10, "learn_sigma": False,
}  # fmt: skip
RECIPE = {
    "image_size": 8,
    "denoiser": {"_class_name": "SiT", **OFFICIAL},
    "objective": {"kind": "noise_prediction"},
    "fit": {"schedule": {"peak": 0.01, "warmup_steps": 1, "total_steps": 4}, "batch_size": 8, "average": 0.9},
    "shift": 0,
    "checkpoint_every": 2,
    "log_every": 2,
}
PIXART = {"_class_name": "PixArtTransformer2DModel", "caption_channels": 8}
TWO_TIMES = {"denoiser": {"_class_name": "FlowMapDiT", **OFFICIAL}}
QUIET = Console(quiet=True)


def made(**changes):
    return DENOISER_RECIPES.from_dict(RECIPE | changes)


def losses(directory):
    lines = (directory / "denoiser" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.mark.sweep
def test_a_run_that_is_resumed_takes_the_same_steps(tmp_path):
    whole = train_denoiser(made(guidance=1.5), tmp_path, console=QUIET)
    with pytest.raises(ValueError, match=r"holds a run of another recipe .*objective"):
        train_denoiser(made(objective={"kind": "flow_matching"}), tmp_path, console=QUIET)
    last = tmp_path / "denoiser" / "checkpoints" / "4"
    last.rename(tmp_path / "4")
    again = train_denoiser(made(guidance=1.5), tmp_path, console=QUIET)
    jax.tree.map(np.testing.assert_array_equal, again.params, whole.params)
    assert len(losses(tmp_path)) == 2
    written = export_denoiser(again, tmp_path / "model", "float32")
    loaded = jm.load(tmp_path / "model")
    jax.tree.map(np.testing.assert_array_equal, loaded.params, written.params)
    assert loaded.habits.guidance == 1.5 and loaded.size == 8 and loaded.sampler == written.sampler


@pytest.mark.sweep
def test_the_average_is_what_a_run_gives(tmp_path):
    fit = dict(RECIPE["fit"])
    averaged = train_denoiser(made(), tmp_path / "averaged", console=QUIET)
    fit["average"] = None
    last = train_denoiser(made(fit=fit), tmp_path / "last", console=QUIET)
    one, other = (run.params["patches"]["w"] for run in (averaged, last))
    assert np.abs(one - other).max() > 0


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize(
    "changes",
    [
        pytest.param(
            {"denoiser": {"_class_name": "DiT", **OFFICIAL, "learn_sigma": True}}, id="noise and variance"
        ),
        pytest.param(
            {"objective": {"kind": "mean_flow", "draws": {"guidance": 2.0, "mixed": 0.5}}, **TWO_TIMES},
            id="MeanFlow",
        ),
        pytest.param(
            {"objective": {"kind": "noise_prediction", "prediction": "v_prediction"}},
            id="velocity",
            marks=pytest.mark.sweep,
        ),
        pytest.param(
            {"objective": {"kind": "flow_matching", "time": "data"}},
            id="flow matching",
            marks=pytest.mark.sweep,
        ),
        pytest.param(
            {"objective": {"kind": "shortcut", "guidance": 2.0}, **TWO_TIMES},
            id="shortcut",
            marks=pytest.mark.sweep,
        ),
        pytest.param(
            {"objective": {"kind": "alpha_flow", "begins": 0.1, "ends": 0.6}, **TWO_TIMES},
            id="alpha-Flow",
            marks=pytest.mark.sweep,
        ),
    ],
)
def test_each_objective_descends(changes, tmp_path):
    schedule = {"peak": 0.01, "warmup_steps": 5, "total_steps": 80}
    fit = {"schedule": schedule, "batch_size": 32, "average": 0.9}
    recipe = dataclasses.replace(made(**changes, fit=fit), log_every=1, checkpoint_every=80)
    run = train_denoiser(recipe, tmp_path, console=QUIET)
    found = losses(tmp_path)
    assert np.mean(found[-20:]) < 0.75 * np.mean(found[:3])
    assert read_scheduler(run.recipe.objective.scheduler())


def test_recipes_are_written_as_they_are_read():
    for name in DENOISER_RECIPES.names():
        recipe = DENOISER_RECIPES.load(name)
        assert DENOISER_RECIPES.from_dict(json.loads(json.dumps(DENOISER_RECIPES.to_dict(recipe)))) == recipe
        assert DENOISER_RECIPES.recognises(name)
    assert not DENOISER_RECIPES.recognises("tiny_maskgit")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shift": -1}, r"DenoiserRecipe: shift must be a whole number .*, got -1"),
        ({"objective": {}}, "recipe: objective: kind must be one of noise_prediction, .*, got None"),
        ({"objective": {"kind": "mean_flow", "draws": {"jumps": 2}}}, "FlowMapDraws: jumps must be .* got 2"),
        ({"objective": {"kind": "shortcut", "draws": {}}}, "recipe: objective: draws is not known"),
        ({"objective": {"kind": "noise_prediction", "betas": {"schedule": "cosine"}}}, "betas: .*cosine"),
        ({"fit": RECIPE["fit"] | {"average": 1.0}}, "Fit: average must be below 1"),
    ],
)
def test_recipes_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        made(**changes)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"objective": {"kind": "shortcut"}}, "it must have times = 2 here, got 1"),
        (TWO_TIMES, "it must have times = 1 here, got 2"),
        ({"denoiser": {"_class_name": "SiT", **OFFICIAL, "num_classes": 3}}, "classes = 10 here, got 3"),
        ({"denoiser": {"_class_name": "SiT", **OFFICIAL, "in_channels": 4}}, "channels = 1 here, got 4"),
        ({"denoiser": PIXART}, "classes = 10 here, got None"),
    ],
)
def test_denoisers_that_do_not_fit_are_refused_before_training(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        train_denoiser(made(**changes), tmp_path, console=QUIET)
