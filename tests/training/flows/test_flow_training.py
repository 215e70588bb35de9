"""Training of flows: what is differentiated, recipes, and models that are not of digits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from diffusers_modules import draw
from flow_models import flow
from model_helpers import quick_jit

from jaxmodels.training.flows.objective import LikelihoodObjective
from jaxmodels.training.flows.recipe import FLOW_RECIPES
from jaxmodels.training.flows.run import train_flow


def test_the_loss_is_the_likelihood_of_noisy_images_some_without_their_class():
    config, params = flow(num_blocks=2, layers_per_block=1, noise_std=0.0)
    images, classes = draw(2, 8, 8, 2)[0], jnp.array([1, 2])
    for dropped, given in ((0.0, classes), (1.0, None)):
        objective = LikelihoodObjective(dropped=dropped)
        loss = quick_jit(lambda *arrays, rule=objective: rule.loss(config, *arrays))
        found = loss(params, images, classes, jax.random.key(0))
        expected = quick_jit(config.negative_log_likelihood)(params, images, given).mean()
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_recipes_are_written_as_they_are_read():
    recipe = FLOW_RECIPES.load("tiny_tarflow")
    assert FLOW_RECIPES.from_dict(FLOW_RECIPES.to_dict(recipe)) == recipe
    assert FLOW_RECIPES.recognises("tiny_tarflow")


def test_models_of_other_images_are_refused_before_training(tmp_path):
    recipe = FLOW_RECIPES.load("tiny_tarflow")
    other = dataclasses.replace(recipe, flow={**recipe.flow, "num_classes": 3})
    with pytest.raises(ValueError, match="recipe: flow: num_classes must be 10 for digits, got 3"):
        train_flow(other, tmp_path)
