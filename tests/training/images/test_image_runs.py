"""Training of image models: digits, objectives, runs that are resumed, recipes that cannot be meant."""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from masked_image_models import AUTOENCODER, TRANSFORMER, image_model
from model_helpers import quick_jit
from rich.console import Console

import jaxmodels as jm
from jaxmodels.training.images.digits import load_digits, reduced, shifted
from jaxmodels.training.images.export import export_images
from jaxmodels.training.images.recipe import IMAGE_RECIPES
from jaxmodels.training.images.run import train_images
from jaxmodels.training.images.vq import VQObjective, revive

RECIPE = {
    "image_size": 8,
    "autoencoder": AUTOENCODER,
    "transformer": TRANSFORMER,
    "fit_autoencoder": {"schedule": {"peak": 0.01, "warmup_steps": 1, "total_steps": 4}, "batch_size": 8},
    "fit_transformer": {"schedule": {"peak": 0.01, "warmup_steps": 1, "total_steps": 4}, "batch_size": 8},
    "shift": 0,
    "revive_every": 2,
    "checkpoint_every": 2,
    "log_every": 2,
}
QUIET = Console(quiet=True)


def equal(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_digits_are_enlarged_and_split():
    train, held_out = load_digits(16)
    assert train.images.shape == (1497, 16, 16, 1) and held_out.images.shape == (300, 16, 16, 1)
    assert train.images.min() == -1 and train.images.max() == 1
    assert np.bincount(held_out.labels).min() > 20
    original = load_digits(8)[0].images.reshape(1497, 64)
    assert np.corrcoef(reduced(train.images).ravel(), original.ravel())[0, 1] > 0.98
    np.testing.assert_array_equal(reduced(load_digits(8)[0].images), original)


def test_shifted_images_let_paper_in():
    images = np.arange(9.0).reshape(1, 3, 3, 1)
    assert shifted(images, (1, -1))[0, ..., 0].tolist() == [[-1, -1, -1], [1, 2, -1], [4, 5, -1]]
    np.testing.assert_array_equal(shifted(images, (0, 0)), images)


def test_the_encoder_learns_through_the_choice_of_codes():
    made = image_model()
    model, params = made.autoencoder, made.autoencoder_params
    images = load_digits(8)[0].images[:4]
    slope = jax.value_and_grad(VQObjective(commitment=0).loss, argnums=1, has_aux=True)
    (value, pixels), gradients = quick_jit(slope, static_argnums=0)(model, params, images)
    drawn = np.asarray(quick_jit(lambda p: model.pixels(p, model.codes(p, images)))(params))
    assert float(pixels) == pytest.approx(float(np.square(drawn - images).mean()), rel=1e-4)
    assert value > pixels
    assert np.abs(gradients["encoder"]["conv_in"]["w"]).max() > 0


def test_codes_that_no_image_has_are_moved_to_images():
    made = image_model()
    model, params = made.autoencoder, made.autoencoder_params
    far = np.array(params["codebook"]["weight"])
    far[3:] = 100.0
    params = {**params, "codebook": {"weight": far}}
    images = load_digits(8)[0].images[:16]
    moved, count = quick_jit(functools.partial(revive, model))(params, images, jax.random.key(1))
    codebook = np.asarray(moved["codebook"]["weight"])
    assert count >= 9 and np.abs(codebook).max() < 100
    kept = np.unique(quick_jit(model.codes)(params, images))
    np.testing.assert_array_equal(codebook[kept], far[kept])


@pytest.mark.sweep
def test_a_run_that_is_resumed_takes_the_same_steps(tmp_path):
    recipe = IMAGE_RECIPES.from_dict(RECIPE)
    whole = train_images(recipe, tmp_path / "whole", console=QUIET)
    short = dataclasses.replace(
        recipe, fit_transformer=dataclasses.replace(recipe.fit_transformer, batch_size=7)
    )
    with pytest.raises(ValueError, match=r"holds a run of another recipe .*batch_size"):
        train_images(short, tmp_path / "whole", console=QUIET)
    for name in ("autoencoder", "transformer"):
        last = tmp_path / "whole" / name / "checkpoints" / "4"
        assert (last.parent / "2").is_dir()
        last.rename(tmp_path / f"{name}-4")
    again = train_images(recipe, tmp_path / "whole", console=QUIET)
    equal(again.autoencoder_params, whole.autoencoder_params)
    equal(again.transformer_params, whole.transformer_params)
    written = export_images(again, tmp_path / "model", "float32")
    loaded = jm.load(tmp_path / "model")
    equal(loaded.model.params, written.model.params)
    log = (tmp_path / "whole" / "transformer" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == [2, 4]


def test_recipes_are_written_as_they_are_read():
    for name in IMAGE_RECIPES.names():
        recipe = IMAGE_RECIPES.load(name)
        assert IMAGE_RECIPES.from_dict(IMAGE_RECIPES.to_dict(recipe)) == recipe
        assert IMAGE_RECIPES.recognises(name)
    assert not IMAGE_RECIPES.recognises("tiny_mamba2")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"image_size": 0}, r"ImageRecipe: image_size must be a whole number .*, got 0"),
        ({"colour": 1}, "recipe: colour is not known"),
        ({"fit_autoencoder": 3}, "recipe: fit_autoencoder must be an object, got 3"),
        ({"fit_autoencoder": {"batch_size": 8}}, "recipe: fit_autoencoder: schedule is missing"),
        ({"masking": {"class_dropout": 2}}, "recipe: masking: MaskGIT: class_dropout must be"),
    ],
)
def test_recipes_that_cannot_be_meant_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        IMAGE_RECIPES.from_dict(RECIPE | changes)


def test_a_step_of_more_images_than_there_are_is_refused(tmp_path):
    fit = RECIPE["fit_autoencoder"] | {"batch_size": 1498}
    recipe = IMAGE_RECIPES.from_dict(RECIPE | {"fit_autoencoder": fit})
    with pytest.raises(ValueError, match="Fit: batch_size=1498 exceeds the 1497 examples to train on"):
        train_images(recipe, tmp_path, console=QUIET)


def test_parts_of_other_sizes_are_refused_before_training(tmp_path):
    for changes, message in (
        ({"image_size": 16}, "max_position_embeddings must be 65 for these images, got 17"),
        ({"transformer": TRANSFORMER | {"vocab_size": 24}}, "vocab_size must be 23 for these images, got 24"),
    ):
        with pytest.raises(ValueError, match=message):
            train_images(IMAGE_RECIPES.from_dict(RECIPE | changes), tmp_path, console=QUIET)
