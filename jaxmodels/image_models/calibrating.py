"""Calibrations of a diffusion model for the caches of its denoiser's steps, to be saved with it."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from jaxmodels.decoding.diffusion.caches.calibration import encoder_mask, magcache_ratios
from jaxmodels.decoding.diffusion.caches.harmonica_training import RouterTraining
from jaxmodels.decoding.diffusion.driver import Asked, Denoise
from jaxmodels.decoding.diffusion.guidance import Guidance
from jaxmodels.decoding.diffusion.samplers import Sampler
from jaxmodels.image_models.diffusion import DiffusionModel


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How a model draws what is measured: what `DiffusionModel.generate` takes under these names, with its
    defaults.

    Attributes:
        negative: what guidance leads away from.
        size: height and width in pixels.
        sampler: takes the steps.
        guidance: a scale, or a rule.
        seed: of the noise.
    """

    negative: Any = None
    size: int | tuple[int, int] | None = None
    sampler: Sampler | str | None = None
    guidance: float | Guidance | None = None
    seed: int = 0

    def run(self, model: DiffusionModel, asked: Any, steps: int) -> tuple[Denoise, Asked]:
        """The run in which the model draws what is asked for.

        Raises:
            ValueError: as `generate`.
        """
        return model.prepared(
            asked,
            steps,
            negative=self.negative,
            size=self.size,
            sampler=self.sampler,
            guidance=self.guidance,
            seed=self.seed,
        )


def with_ratios(
    model: DiffusionModel, asked: Any, steps: int, *, drawing: Drawing | None = None
) -> DiffusionModel:
    """The model with the ratios that `cache="magcache"` goes by, measured while it draws what is asked for.

    Args:
        model: the model.
        asked: classes or prompts, as `generate` takes them.
        steps: of its sampler. Runs of other lengths go by the ratios of the nearest steps.
        drawing: how it draws; None for how it does by itself.

    Raises:
        ValueError: as `generate`.
    """
    policy, ready = (drawing or Drawing()).run(model, asked, steps)
    return _with(model, "magcache", magcache_ratios(policy, model.adapted, model.params, ready))


def with_router(
    model: DiffusionModel,
    asked: Any,
    steps: int,
    training: RouterTraining,
    *,
    drawing: Drawing | None = None,
) -> DiffusionModel:
    """The model with a trained router, by which `cache="harmonica"` goes in runs of so many steps.

    Args:
        model, asked, steps, drawing: see `with_ratios`; the router is for this number of steps alone. Runs
            behind the first take the seeds that follow its seed.
        training: how it is trained.

    Raises:
        ValueError: as `generate`.
    """
    drawing = drawing or Drawing()
    policy, _ = drawing.run(model, asked, steps)

    def draw(run: int) -> Asked:
        return replace(drawing, seed=drawing.seed + run).run(model, asked, steps)[1]

    return _with(model, "harmonica", training.train(policy, model.adapted, model.params, draw))


def with_shared_encoder(
    model: DiffusionModel, asked: Any, steps: int, computed: int, *, drawing: Drawing | None = None
) -> DiffusionModel:
    """The model with the mask that `cache="encoder-sharing"` goes by in runs of so many steps.

    Args:
        model, asked, steps, drawing: see `with_ratios`; the mask is for this number of steps alone.
        computed: in how many steps the encoder runs.

    Raises:
        ValueError: the model has no encoder apart, or `computed` is not from 1 to the number of calls; as
            `generate`.
    """
    policy, ready = (drawing or Drawing()).run(model, asked, steps)
    mask = encoder_mask(policy, model.adapted, model.params, ready, computed)
    return _with(model, "encoder-sharing", mask)


def _with(model: DiffusionModel, name: str, calibration: np.ndarray) -> DiffusionModel:
    return replace(model, calibrations={**model.calibrations, name: calibration})
