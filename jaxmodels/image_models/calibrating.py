"""Calibrations of a diffusion model for the caches of its denoiser's steps, to be saved with it."""

from dataclasses import replace
from typing import Any

import numpy as np

from jaxmodels.decoding.diffusion.caches.calibration import encoder_mask, magcache_ratios
from jaxmodels.decoding.diffusion.caches.harmonica_training import RouterTraining
from jaxmodels.decoding.diffusion.driver import Asked, Denoise
from jaxmodels.decoding.diffusion.guidance.cfg import CFG
from jaxmodels.decoding.diffusion.noise import drawn
from jaxmodels.image_models.conditions import Told
from jaxmodels.image_models.diffusion import DiffusionModel


def with_ratios(model: DiffusionModel, asked: Any, steps: int, *, seed: int = 0) -> DiffusionModel:
    """The model with the ratios that `cache="magcache"` goes by, measured while it draws what is asked for.

    Args:
        model: the model.
        asked: classes or prompts, as `generate` takes them.
        steps: of its sampler. Runs of other lengths go by the ratios of the nearest steps.
        seed: of the noise.

    Raises:
        ValueError: as `generate`.
    """
    ratios = magcache_ratios(_run(model, steps), model.adapted, model.params, _asked(model, asked, seed))
    return _with(model, "magcache", ratios)


def with_router(
    model: DiffusionModel, asked: Any, steps: int, training: RouterTraining, *, seed: int = 0
) -> DiffusionModel:
    """The model with a trained router, by which `cache="harmonica"` goes in runs of so many steps.

    Args:
        model, asked, steps: see `with_ratios`; the router is for this number of steps alone.
        training: how it is trained.
        seed: of the noise of the first run; those that follow take the seeds that follow.

    Raises:
        ValueError: as `generate`.
    """

    def draw(run: int) -> Asked:
        return _asked(model, asked, seed + run)

    router = training.train(_run(model, steps), model.adapted, model.params, draw)
    return _with(model, "harmonica", router)


def with_shared_encoder(
    model: DiffusionModel, asked: Any, steps: int, computed: int, *, seed: int = 0
) -> DiffusionModel:
    """The model with the mask that `cache="encoder-sharing"` goes by in runs of so many steps.

    Args:
        model, asked, steps, seed: see `with_ratios`; the mask is for this number of steps alone.
        computed: in how many steps the encoder runs.

    Raises:
        ValueError: the model has no encoder apart, or `computed` is not from 1 to the number of calls; as
            `generate`.
    """
    ready = _asked(model, asked, seed)
    return _with(
        model,
        "encoder-sharing",
        encoder_mask(_run(model, steps), model.adapted, model.params, ready, computed),
    )


def _with(model: DiffusionModel, name: str, calibration: np.ndarray) -> DiffusionModel:
    return replace(model, calibrations={**model.calibrations, name: calibration})


def _run(model: DiffusionModel, steps: int) -> Denoise:
    """A run of the model as it draws by itself."""
    scale = model.habits.guidance
    unguided = model.habits.tells_strength or scale == 1.0
    return Denoise(sampler=model.sampler, steps=steps, guidance=None if unguided else CFG(scale))


def _asked(model: DiffusionModel, asked: Any, seed: int) -> Asked:
    """What the run is asked for."""
    told = Told(height=model.size, width=model.size, strength=model.habits.guidance)
    condition = model.conditions.rows(asked, told)
    count = len(np.atleast_1d(asked))
    noise = drawn(seed, count, (model.canvas, model.canvas, model.channels))
    guided = _run(model, 1).guidance is not None
    return Asked(noise, condition, model.conditions.nothing(count, told) if guided else None)
