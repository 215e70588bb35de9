"""Calibrations and heads of a diffusion model for the caches of its denoiser's steps, to be saved with it."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxmodels.checks import whole
from jaxmodels.decoding.diffusion.caches.calibration import encoder_mask, magcache_ratios
from jaxmodels.decoding.diffusion.caches.exit_heads import EXITS
from jaxmodels.decoding.diffusion.caches.exit_training import ExitTraining, Noised
from jaxmodels.decoding.diffusion.caches.harmonica_training import RouterTraining
from jaxmodels.decoding.diffusion.driver import Asked, Calls, Denoise
from jaxmodels.decoding.diffusion.guidance import Guidance
from jaxmodels.decoding.diffusion.prediction import Prediction, target
from jaxmodels.decoding.diffusion.samplers import Sampler
from jaxmodels.image_models.diffusion import DiffusionModel

# The share of canvases that heads see without what is asked for.
_HIDDEN = 0.1


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


def with_exits(
    model: DiffusionModel,
    latents: Float[np.ndarray, "N H W C"],
    asked: Any,
    steps: int,
    training: ExitTraining,
    *,
    batch: int = 32,
    drawing: Drawing | None = None,
) -> DiffusionModel:
    """The model with trained heads behind its blocks, by which the caches `DepthTable` and `UncertaintyExit`
    leave it early.

    Args:
        model: the model, which stays as it is.
        latents: canvases of real images, such as `Autoencoder.latents` gives, or images from -1 to 1 where
            the model has no autoencoder.
        asked: the class or prompt of each.
        steps: heads are trained at the times of a run of so many.
        training: how they are trained.
        batch: how many canvases a step of the training takes.
        drawing: the run; None for how the model draws by itself. Where it is guided, a tenth of a batch is
            shown what guidance leads away from.

    Raises:
        ValueError: the latents are not as many and as large as what is drawn of `asked`; the model goes by
            two times, whose predictions no single noisy canvas tells; as `generate`.
    """
    drawing, batch = drawing or Drawing(), whole("batch", batch, low=1)
    policy, ready = drawing.run(model, asked, steps)
    clean, calls = np.asarray(latents, np.float32), policy.prepare(model.adapted, ready).calls
    if clean.shape != tuple(ready.noise.shape):
        raise ValueError(
            f"latents must be {list(ready.noise.shape)} for these images, got {list(clean.shape)}"
        )
    if calls.times.ndim > 1:
        raise ValueError("the model goes by two times: heads are trained for models of one")

    def draw(step: int) -> Noised:
        rng = np.random.default_rng((drawing.seed, step))
        return _noised(clean, ready, calls, policy.sampler.prediction, rng, batch)

    return replace(model, exits=training.train(model.adapted, model.params, draw)[EXITS])


def _noised(
    clean: np.ndarray, ready: Asked, calls: Calls, kind: Prediction, rng: np.random.Generator, batch: int
) -> Noised:
    """Canvases of these images with the noise of any of the calls, and what the model should predict."""
    rows, chosen = rng.integers(len(clean), size=batch), rng.integers(len(calls.number), size=batch)
    alpha, sigma, scale = (
        table[chosen, None, None, None] for table in (calls.alpha, calls.sigma, calls.input_scale)
    )
    noise = rng.standard_normal((batch, *clean.shape[1:]), np.float32)
    condition, asked = ready.condition, rows
    if ready.unconditional is not None:
        hidden = rng.random(batch) < _HIDDEN
        # All conditional rows, then all others: a row's other one lies as many behind it as there are images.
        condition = jax.tree.map(lambda *both: jnp.concatenate(both), condition, ready.unconditional)
        asked = rows + len(clean) * hidden
    return Noised(
        x=jnp.asarray((alpha * clean[rows] + sigma * noise) * scale),
        t=jnp.asarray(calls.times[chosen]),
        condition=jax.tree.map(lambda leaf: leaf[asked], condition),
        target=target(kind, *map(jnp.asarray, (clean[rows], noise, alpha, sigma))),
    )


def _with(model: DiffusionModel, name: str, calibration: np.ndarray) -> DiffusionModel:
    return replace(model, calibrations={**model.calibrations, name: calibration})
