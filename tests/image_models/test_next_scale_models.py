"""Models that draw scale by scale: images at once and in steps; files both ways; what they do not have."""

import dataclasses

import jax
import numpy as np
import pytest
from next_scale_models import codes_model, scale_model

import jaxmodels as jm
from benchmarks.digits import classifier
from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.decoding.finite import NotFinite
from jaxmodels.decoding.samplers import Sample
from jaxmodels.image_models.next_scale import NextScaleImageModel
from jaxmodels.training.images.digits import reduced


@pytest.fixture(scope="module")
def model():
    (config, params), (autoencoder, codes) = scale_model(depth=1), codes_model(1)
    return NextScaleImageModel(model=config, params=params, autoencoder=autoencoder, autoencoder_params=codes)


@pytest.mark.sweep
def test_scales_end_in_the_images_that_are_drawn_at_once(model):
    stages = list(model.stream([2, 4], seed=3, guidance=1.0))
    assert [made.calls for made in stages] == [0, 1, 2, 3, 4]
    assert [(made.codes < 0).sum(1).tolist() for made in stages] == [[n, n] for n in (30, 29, 25, 16, 0)]
    assert (stages[0].pixels == 0.5).all()
    whole = model.generate([2, 4], seed=3, guidance=1.0)
    np.testing.assert_array_equal(stages[-1].codes, whole.codes)
    np.testing.assert_allclose(stages[-1].pixels, whole.pixels, atol=1e-6)
    np.testing.assert_allclose(model.pixels(whole.codes), whole.pixels, atol=1e-6)
    told = []
    again = model.generate([2, 4], seed=3, guidance=1.0, progress=lambda *step: told.append(step))
    np.testing.assert_array_equal(again.codes, whole.codes)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] and again.calls == 4


def test_scores_that_are_not_finite_stop_with_the_scale_named(model):
    params = jax.tree.map(np.asarray, model.params)
    params["head"] = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), params["head"])
    broken = dataclasses.replace(model, params=params)
    for draw in (lambda: broken.generate([2, 4]), lambda: list(broken.stream([2, 4]))):
        with pytest.raises(NotFinite, match="scores of codes are not finite at scale 1 of 4: look for param"):
            draw()


def test_a_save_is_read_again(model, tmp_path):
    jm.save(model, tmp_path / "saved")
    again = jm.load(tmp_path / "saved")
    assert isinstance(again, NextScaleImageModel) and isinstance(again, jm.ImageModel)
    assert (again.model, again.autoencoder) == (model.model, model.autoencoder)
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)
    jax.tree.map(np.testing.assert_array_equal, again.autoencoder_params, model.autoencoder_params)


@pytest.mark.sweep
def test_digits_of_the_bundled_model_are_recognised():
    """By a classifier of real digits that it has not seen: nine of ten at least, without any guidance."""
    made, classes = jm.load("tiny-var"), np.arange(100) % 10
    judge, drawn = classifier(made.size), made.generate(classes)
    assert (judge.predict(reduced(2 * drawn.pixels - 1)) == classes).mean() >= 0.9
    guided = made.generate(classes, guidance=2.0, sampler=Sample(top_k=32, top_p=0.96))
    assert (judge.predict(reduced(2 * guided.pixels - 1)) == classes).mean() >= 0.95


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_ids": 5}, r"class_ids\[0\] is 5: the model has the classes 0 to 4"),
        ({"class_ids": "3"}, "takes no prompt, got '3'"),
        ({"class_ids": 1, "size": 16}, "size=16: the model makes images of 8 x 8 pixels alone"),
        ({"class_ids": 1, "steps": 8}, "steps=8: the model draws its 4 scales in 4 steps alone"),
        ({"class_ids": 1, "guidance": -1.0}, "guidance must be a finite number >= 0"),
    ],
)
def test_what_the_model_does_not_have_is_refused_by_name(model, given, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**given)


def test_parts_that_do_not_fit_are_refused(model, tmp_path):
    autoencoder, codes = codes_model(vocab_size=13)
    with pytest.raises(ValueError, match="num_codes of the model is 12, but of its autoencoder 13"):
        NextScaleImageModel(
            model=model.model, params=model.params, autoencoder=autoencoder, autoencoder_params=codes
        )
    jm.save(model, tmp_path / "saved")
    (tmp_path / "saved" / "vae").rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="the folder 'vae' is missing"):
        jm.load(tmp_path / "saved", verify=False)
