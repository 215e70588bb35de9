"""Flows as models of images: drawn at once and step by step; files both ways; what they do not have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flow_models import flow

import jaxmodels as jm
from jaxmodels.decoding.finite import NotFinite
from jaxmodels.decoding.flows.gs_jacobi import GSJacobi
from jaxmodels.image_models.flow import FlowImageModel


@pytest.fixture(scope="module")
def model():
    config, params = flow(num_blocks=2, layers_per_block=1, noise_std=0.1)
    return FlowImageModel(flow=config, params=params)


@pytest.mark.sweep
def test_steps_end_in_the_images_that_are_drawn_at_once(model):
    stages = list(model.stream([2, 0], seed=3))
    assert [made.calls for made in stages] == [0, 15, 30]
    whole = model.generate([2, 0], seed=3)
    assert whole.pixels.shape == (2, 8, 8, 2) and whole.calls == 30
    np.testing.assert_allclose(stages[-1].pixels, whole.pixels, atol=1e-5)
    told = []
    again = model.generate([2, 0], seed=3, progress=lambda *step: told.append(step))
    np.testing.assert_allclose(again.pixels, whole.pixels, atol=1e-5)
    assert told == [(1, 2), (2, 2)]
    alone = model.generate([2], seed=3)
    np.testing.assert_allclose(alone.pixels, whole.pixels[:1], atol=1e-5)


@pytest.mark.sweep
def test_passes_draw_the_same_images(model):
    whole = model.generate([2, 0], seed=3, guidance=0.5)
    by_passes = model.generate([2, 0], seed=3, guidance=0.5, sampler="gs-jacobi")
    np.testing.assert_allclose(by_passes.pixels, whole.pixels, atol=1e-4)
    assert by_passes.calls < whole.calls


@pytest.mark.sweep
def test_passes_are_planned_of_images(model):
    images = np.random.default_rng(1).uniform(-1, 1, (4, 8, 8, 2)).astype(np.float32)
    passes = model.planned_passes(images, [0, 1, 2, 0], segments=4, dominant=0.5)
    hard = np.array(passes.segments) == 4
    assert hard.sum() == 1 and set(passes.segments) == {1, 4} and len(passes.guesses) == 2
    assert model.planned_passes(images, segments=4, dominant=1.0).segments == (1, 1)
    drawn = model.generate([2, 0], seed=3, sampler=passes)
    np.testing.assert_allclose(drawn.pixels, model.generate([2, 0], seed=3).pixels, atol=1e-4)
    with pytest.raises(ValueError, match=r"segments=3 must divide the \d+ tokens"):
        model.planned_passes(images, segments=3, dominant=0.0)
    with pytest.raises(ValueError, match="class_ids must name a class for each image, 4, got 1"):
        model.planned_passes(images, [1], segments=4)


def test_a_save_is_read_again(model, tmp_path):
    jm.save(model, tmp_path / "saved")
    again = jm.load(tmp_path / "saved")
    assert isinstance(again, FlowImageModel) and isinstance(again, jm.ImageModel)
    assert again.flow == model.flow
    jax.tree.map(np.testing.assert_array_equal, again.params, model.params)


def test_the_density_is_that_of_the_noise_of_images(model):
    # A flow that changes nothing has unit noise as images.
    plain = FlowImageModel(flow=model.flow, params=jax.tree.map(jnp.zeros_like, model.params))
    images = np.random.default_rng(0).standard_normal((3, 8, 8, 2))
    expected = -0.5 * (images**2 + np.log(2 * np.pi)).sum((1, 2, 3))
    np.testing.assert_allclose(plain.likelihood(images, [0, 1, 2]), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"class_ids": 3}, r"class_ids\[0\] is 3: the model has the classes 0 to 2"),
        ({"class_ids": 1, "size": 16}, "size=16: the model makes images of 8 x 8 pixels alone"),
        ({"class_ids": 1, "steps": 8}, "steps=8: the model is a flow of 2 steps, and runs 2 alone"),
        ({"class_ids": 1, "guidance": -1.0}, "guidance must be a finite number >= 0"),
        ({"class_ids": 1, "sampler": "ddim"}, "sampler must be one of sequential, gs-jacobi, got 'ddim'"),
        ({"class_ids": 1, "sampler": GSJacobi(segments=3)}, "segments=3 must divide the 16 tokens"),
    ],
)
def test_what_the_model_does_not_have_is_refused_by_name(model, given, message):
    with pytest.raises(ValueError, match=message):
        model.generate(**given)


def test_numbers_that_are_not_finite_stop_with_the_step_named(model):
    params = jax.tree.map(jnp.asarray, model.params)
    params["steps"]["0"]["out"]["b"] = jnp.full_like(params["steps"]["0"]["out"]["b"], jnp.inf)
    with pytest.raises(NotFinite, match="step 0 of the flow, counted from 0 next to the images"):
        FlowImageModel(flow=model.flow, params=params).generate([1])


@pytest.mark.sweep
def test_weights_in_few_bits_draw_as_the_arrays_they_stand_for(model, tmp_path):
    small = model.quantized("int8")
    made = small.generate([2, 0], seed=3)
    same = small.dequantized().generate([2, 0], seed=3)
    np.testing.assert_allclose(made.pixels, same.pixels, atol=1e-5)
    assert np.abs(made.pixels - model.generate([2, 0], seed=3).pixels).max() > 1e-4  # they are rounded
    with pytest.raises(ValueError, match=r"'steps/0/blocks/0/.*' is held as int8"):
        jm.save(small, tmp_path / "model")
    jm.save(model, tmp_path / "model")
    again = jm.load(tmp_path / "model", quantize="int8")
    np.testing.assert_array_equal(again.generate([2, 0], seed=3).pixels, made.pixels)
    assert "int8" in {str(leaf.dtype) for leaf in jax.tree.leaves(again.params)}
