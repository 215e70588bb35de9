"""Training of next-scale models: what is differentiated, recipes, and parts that do not fit."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers_modules import draw
from model_helpers import quick_jit
from next_scale_models import codes_model, scale_model
from scipy.special import log_softmax

from jaxmodels.training.next_scale.objectives import CodesObjective, PyramidObjective, revive
from jaxmodels.training.next_scale.recipe import NEXT_SCALE_RECIPES
from jaxmodels.training.next_scale.run import train_next_scale


@pytest.mark.sweep
def test_the_encoder_learns_through_the_choice_of_codes():
    model, params = codes_model()
    images = jnp.tanh(draw(2, 8, 8, 1)[0])

    def pixels(params):
        return PyramidObjective(commitment=0.0).loss(model, params, images)[1]

    gradients = quick_jit(jax.grad(pixels))(params)
    assert float(jnp.abs(gradients["encoder"]["conv_in"]["w"]).max()) > 0
    assert float(jnp.abs(gradients["codebook"]["weight"]).max()) == 0


def test_codes_that_no_scale_has_are_moved_to_what_was_looked_for():
    model, params = codes_model()
    params["codebook"]["weight"] = params["codebook"]["weight"].at[3].set(1e3)
    images = jnp.tanh(draw(2, 8, 8, 1)[0])
    revived, count = quick_jit(lambda *given: revive(model, *given))(params, images, jax.random.key(0))
    assert count >= 1
    assert float(jnp.abs(revived["codebook"]["weight"][3]).max()) < 100


def test_the_loss_is_the_cross_entropy_of_all_codes():
    (autoencoder, held), (model, params) = codes_model(), scale_model(depth=1)
    codes, classes = np.random.default_rng(0).integers(12, size=(2, 30), dtype=np.int32), np.array([1, 4])
    objective = CodesObjective(dropped=0.0)
    loss = quick_jit(lambda *given: objective.loss(model, given[0], autoencoder.pyramid, *given[1:]))
    found = loss(params, held, codes, classes, jax.random.key(1))
    shown = quick_jit(autoencoder.pyramid.inputs)(held, codes)
    scores = log_softmax(np.asarray(quick_jit(model.forward)(params, classes, shown)), axis=-1)
    expected = -np.take_along_axis(scores, codes[..., None], axis=-1).mean()
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_recipes_are_written_as_they_are_read():
    recipe = NEXT_SCALE_RECIPES.load("tiny_var")
    assert NEXT_SCALE_RECIPES.from_dict(NEXT_SCALE_RECIPES.to_dict(recipe)) == recipe
    assert NEXT_SCALE_RECIPES.recognises("tiny_var")


def test_parts_of_other_sizes_are_refused_before_training(tmp_path):
    recipe = NEXT_SCALE_RECIPES.load("tiny_var")
    other = dataclasses.replace(recipe, var={**recipe.var, "V": 65})
    with pytest.raises(ValueError, match="recipe: var: V must be 64 for these images, got 65"):
        train_next_scale(other, tmp_path)
