"""Image models: what they draw, step by step and at once; files both ways; classes and sizes they lack."""

import dataclasses

import jax
import numpy as np
import pytest
from masked_image_models import AUTOENCODER, TRANSFORMER, image_model

import jaxmodels as jm
from benchmarks.digits import classifier, recognised
from jaxmodels.decoding import driver
from jaxmodels.decoding.finite import NotFinite
from jaxmodels.decoding.masked.caches import ReCAP, Recompute
from jaxmodels.decoding.masked.guidance import ClassifierFree
from jaxmodels.decoding.masked.unmask import MAGE, MaskGIT, ToZero


@pytest.fixture(scope="module")
def model():
    return image_model()


@pytest.mark.sweep
def test_images_are_those_of_their_codes(model):
    made = model.generate([3, 0, 9], steps=5, seed=1)
    assert made.pixels.shape == (3, 8, 8, 1) and made.pixels.dtype == np.float32
    assert made.codes.shape == (3, 4, 4) and made.calls == 5
    assert made.codes.min() >= 0 and made.codes.max() < 12
    assert made.pixels.min() >= 0 and made.pixels.max() <= 1
    np.testing.assert_allclose(model.pixels(made.codes), made.pixels, atol=1e-6)


@pytest.mark.sweep
def test_an_image_depends_on_its_seed_its_place_and_its_class_alone(model):
    first = model.generate([3, 0, 9], steps=5, seed=1).codes
    np.testing.assert_array_equal(model.generate([3, 1, 9], steps=5, seed=1).codes[::2], first[::2])
    others = model.generate([3, 0, 9], steps=5, seed=2).codes
    assert all((a != b).any() for a, b in zip(first, others, strict=True))


@pytest.mark.sweep
def test_steps_end_in_the_images_that_are_drawn_at_once(model):
    stages = list(model.stream([2, 7], steps=4, seed=3))
    assert [made.calls for made in stages] == [0, 1, 2, 3, 4]
    unknown = [(made.codes < 0).sum((1, 2)).tolist() for made in stages]
    assert unknown == [[n, n] for n in (16, 14, 11, 6, 0)]
    assert (stages[0].pixels == 0.5).all()
    grey = (stages[1].codes < 0).repeat(2, 1).repeat(2, 2)
    assert (stages[1].pixels[grey] == 0.5).all() and (stages[1].pixels[~grey] != 0.5).any()
    known = stages[1].codes >= 0
    np.testing.assert_array_equal(stages[2].codes[known], stages[1].codes[known])
    whole = model.generate([2, 7], steps=4, seed=3)
    np.testing.assert_array_equal(stages[-1].codes, whole.codes)
    np.testing.assert_allclose(stages[-1].pixels, whole.pixels, atol=1e-6)
    told = []
    again = model.generate([2, 7], steps=4, seed=3, progress=lambda done, of: told.append((done, of)))
    np.testing.assert_array_equal(again.codes, whole.codes)
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)] and again.calls == 4


def test_other_classes_seeds_steps_and_temperatures_compile_nothing(model):
    def draw(classes, steps, seed, start, full):
        rule, cache = MaskGIT(temperature=ToZero(start)), ReCAP(tokens=8, full=full)
        model.generate(classes, steps, unmask=rule, cache=cache, seed=seed)

    draw([1, 2], 4, 0, 1.0, 1)
    before = driver.generate.count()
    draw([9, 0], 7, 8, 2.5, 3)
    assert driver.generate.count() == before


@pytest.mark.sweep
def test_other_rules_and_guidance(model):
    plain = model.generate([1] * 4, steps=16, unmask=MAGE(temperature=ToZero(1.0))).codes
    guided = model.generate(
        [1] * 4, steps=16, unmask=MAGE(temperature=ToZero(1.0)), guidance=ClassifierFree(4.0)
    )
    assert (guided.codes != plain).any() and guided.codes.max() < 12


@pytest.mark.sweep
def test_scores_that_are_not_finite_stop(model):
    params = jax.tree.map(lambda leaf: np.full_like(leaf, np.nan), model.model.params)
    broken = dataclasses.replace(model, model=dataclasses.replace(model.model, params=params))
    with pytest.raises(NotFinite, match="scores of codes are not finite: look for parameters"):
        broken.generate([3, 0], steps=5)
    with pytest.raises(NotFinite, match="scores of codes are not finite at call 1 of the model"):
        list(broken.stream([3, 0], steps=5))


def test_a_save_is_read_again(model, tmp_path):
    jm.save(model, tmp_path / "saved")
    again = jm.load(tmp_path / "saved")
    assert isinstance(again, jm.ImageModel) and again.autoencoder == model.autoencoder
    for saved, held in (
        (again.autoencoder_params, model.autoencoder_params),
        (again.model.params, model.model.params),
    ):
        jax.tree.map(np.testing.assert_array_equal, saved, held)
    assert (
        jm.load(tmp_path / "saved", dtype="bfloat16").autoencoder_params["codebook"]["weight"].itemsize == 2
    )


@pytest.mark.sweep
def test_digits_of_the_bundled_model_are_recognised():
    """By a classifier of real digits that it has not seen: nine of ten at least, after few steps."""
    made = jm.load("tiny-maskgit")
    share, calls = recognised(classifier(made.size), made, batches=1, steps=6, cache=Recompute())
    assert calls == 6 and share >= 0.9


def test_what_the_model_does_not_have_is_refused_by_name(model):
    for given, message in (
        ({"class_ids": 10}, r"class_ids\[0\] is 10: the model has the classes 0 to 9"),
        ({"class_ids": [1, -1]}, r"class_ids\[1\] is -1"),
        ({"class_ids": []}, "class_ids must be one or several whole numbers"),
        ({"class_ids": "3"}, "the model draws classes, 0 to 9, and takes no prompt, got '3'"),
        ({"class_ids": ["a", 1]}, r"takes no prompt, got \['a', 1\]"),
        ({"class_ids": {1}}, r"class_ids must be one or several whole numbers, got \{1\}"),
        ({"class_ids": [True]}, "class_ids must be one or several whole numbers"),
        ({"class_ids": [[1], [2, 3]]}, "class_ids must be one or several whole numbers"),
        ({"class_ids": 1, "size": 16}, "size=16: the model makes images of 8 x 8 pixels alone"),
        ({"class_ids": 1, "steps": 17}, "steps must be a whole number >= 1 and <= 16, got 17"),
        ({"class_ids": 1, "steps": 0}, "steps must be a whole number"),
    ):
        with pytest.raises(ValueError, match=message):
            model.generate(**given)


@pytest.mark.parametrize(
    ("part", "changes", "message"),
    [
        ("transformer", {"mask_token_id": 0}, "the mask token last, got 23 tokens and the mask token 0"),
        ("transformer", {"max_position_embeddings": 16}, "one for each place of a square, got 16"),
        ("autoencoder", {"num_vq_embeddings": 22}, "at least one class"),
    ],
)
def test_parts_that_do_not_fit_are_refused(part, changes, message):
    parts = {"transformer": TRANSFORMER, "autoencoder": AUTOENCODER}
    with pytest.raises(ValueError, match=message):
        image_model(**parts | {part: parts[part] | changes})


def test_what_image_models_do_not_have_is_refused(model, tmp_path):
    jm.save(model, tmp_path)
    with pytest.raises(ValueError, match="takes neither adapter nor text_only"):
        jm.load(tmp_path, text_only=True)
    with pytest.raises(ValueError, match="an image model is written with format='hf', got 'orbax'"):
        jm.save(model, tmp_path, "orbax")
