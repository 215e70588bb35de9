"""The bundled diffusion models draw digits, and are what their recipes say."""

import numpy as np
import pytest

import jaxmodels as jm
from benchmarks.digit_judges import digit_judge
from jaxmodels.checkpoints.schedulers import read_scheduler
from jaxmodels.models.denoisers.families import DENOISERS
from jaxmodels.training.denoisers.recipe import DENOISER_RECIPES

# (bundled model, steps, share of digits that are recognised at least)
DRAWN = [("tiny-dit", 8, 0.97), ("tiny-ddt", 8, 0.97), ("tiny-meanflow", 4, 0.94)]


@pytest.mark.parametrize("name", [name for name, _, _ in DRAWN])
def test_a_bundled_model_is_that_of_its_recipe(name):
    model, recipe = jm.load(name), DENOISER_RECIPES.load(name.replace("-", "_"))
    assert model.denoiser == DENOISERS.read(recipe.denoiser)
    assert model.sampler == read_scheduler(recipe.objective.scheduler())
    assert model.habits.guidance == recipe.guidance and model.size == recipe.image_size


@pytest.mark.sweep
def test_a_model_of_two_times_draws():
    model = jm.load("tiny-meanflow")
    images = model.generate([3, 8], 1)
    assert images.pixels.shape == (2, 16, 16, 1) and images.calls == 1
    one = model.generate(3, 1)
    np.testing.assert_allclose(one.pixels[0], images.pixels[0], atol=1e-5)
    with pytest.raises(ValueError, match="sampler takes predictions"):
        model.generate(3, 1, sampler=jm.load("tiny-dit").sampler)


@pytest.mark.wide(every_run=1)
@pytest.mark.parametrize("sampler", ["heun", "dpm++", "unipc"])
def test_samplers_of_flow_end_where_the_model_s_own_does(sampler):
    model = jm.load("tiny-ddt")
    wanted = model.generate([3, 8], 20).pixels
    assert np.abs(model.generate([3, 8], 20, sampler=sampler).pixels - wanted).mean() < 0.02


@pytest.mark.sweep
@pytest.mark.parametrize(("name", "steps", "least"), DRAWN)
def test_drawn_digits_are_recognised(name, steps, least):
    classes = np.arange(100) % 10
    drawn = jm.load(name).generate(classes, steps)
    assert digit_judge().recognised(drawn.pixels, classes) >= least
    assert digit_judge().distance(drawn.pixels) < 15
