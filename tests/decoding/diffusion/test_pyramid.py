"""A run through stages of growing resolution against the same loop by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from denoiser_models import CONFIGS, condition_of
from model_helpers import random_params

from jaxmodels.decoding.diffusion.pyramid import Pyramid
from jaxmodels.decoding.diffusion.samplers.pyramid_stage import PyramidSchedule
from jaxmodels.models.denoisers.families import denoiser_from_config

NAME = "FluxTransformer2DModel"
SCHEDULE = PyramidSchedule(cuts=(0.0, 0.5, 1.0))


def test_stages_follow_each_other() -> None:
    denoiser = denoiser_from_config(CONFIGS[NAME] | {"_class_name": NAME})
    params, condition = random_params(denoiser.spec()), condition_of(NAME)
    draw = np.random.default_rng(0)
    noises = [jnp.asarray(draw.normal(size=(2, size, size, 1)), jnp.float32) for size in (4, 8)]
    runs = Pyramid(steps=(2, 2), schedule=SCHEDULE).run(denoiser, params, noises, condition)
    x, step = noises[0], jax.jit(denoiser.denoise)
    for stage, noise in enumerate(noises):
        if stage:
            x = SCHEDULE.jump(x, stage, noise)
        first, last = SCHEDULE.times(stage)
        for time, fall in ((first, 0.999), (last, 0.001)):
            x = x - fall * step(params, x, jnp.full(2, time, jnp.float32), condition).prediction
        assert runs[stage].calls == 2
        np.testing.assert_allclose(runs[stage].latents, x, rtol=0, atol=1e-4 * np.abs(x).max())


def test_other_numbers_of_stages() -> None:
    with pytest.raises(ValueError, match=r"each of the 3 stages, got \(2, 2\)"):
        Pyramid(steps=(2, 2))
    with pytest.raises(ValueError, match="noises must be 2 arrays, one a stage, got 1"):
        Pyramid(steps=(2, 2), schedule=SCHEDULE).run(None, {}, [jnp.zeros((1, 4, 4, 1))], None)
