"""A whole training run of a denoiser in one directory, resumable at any time.

recipe.json          what is trained; a second call must bring the same
denoiser/            checkpoints and metrics.jsonl
model/               what was trained, as `jaxmodels.load` reads it
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxtyping import Array
from rich.console import Console

from jaxmodels.layers.spec import Params
from jaxmodels.models.denoisers.families import DENOISERS
from jaxmodels.training.denoisers.objective import Bound, DenoisingObjective, Pictures, Trained
from jaxmodels.training.denoisers.recipe import DENOISER_RECIPES, DenoiserRecipe
from jaxmodels.training.fitting import Fitting, average_of, claim
from jaxmodels.training.images.digits import NUM_CLASSES, load_digits, moved
from jaxmodels.training.run_directory import only_trainer
from jaxmodels.training.train import TrainState


@dataclass(frozen=True, kw_only=True)
class DenoiserRun:
    """A trained denoiser with f32 parameters, and the recipe that it was trained by."""

    denoiser: Any
    params: Params
    recipe: DenoiserRecipe


def train_denoiser(
    recipe: DenoiserRecipe, output_dir: str | Path, *, console: Console | None = None
) -> DenoiserRun:
    """Trains, or goes on from the last checkpoint in `output_dir`.

    Interrupted and resumed runs take the same steps as uninterrupted ones, bit for bit on the same machine.

    Raises:
        ValueError: `output_dir` belongs to another recipe, another process trains in it, or the denoiser is
            none of digits or of the objective's times.
        ConfigError: the denoiser's configuration cannot be read.
        ImportError: scikit-learn is not installed.
    """
    console = Console(stderr=True) if console is None else console
    output, objective = Path(output_dir), recipe.objective
    denoiser: Any = DENOISERS.read(recipe.denoiser)
    _check_fit(denoiser, objective)

    total = recipe.fit.schedule.total_steps

    def loss(params: Params, state: TrainState, batch: Pictures, key: Array) -> tuple[Array, Array]:
        average = Bound(denoiser, average_of(state))
        return objective.loss(Trained(Bound(denoiser, params), average, state.step / total), batch, key)

    with only_trainer(output):
        claim(output, DENOISER_RECIPES, recipe)
        digits = moved(load_digits(recipe.image_size)[0], recipe.shift)
        fitting = Fitting(
            output=output / "denoiser",
            seed=recipe.seed,
            log_every=recipe.log_every,
            checkpoint_every=recipe.checkpoint_every,
            console=console,
        )
        pictures = Pictures(images=digits.images, classes=digits.labels)  # type: ignore[arg-type]
        params = fitting.run(denoiser, recipe.fit, pictures, loss)
    return DenoiserRun(denoiser=denoiser, params=params, recipe=recipe)


def _check_fit(denoiser: Any, objective: DenoisingObjective) -> None:
    """Raises ValueError, with both values, where a denoiser is none of digits with classes, or goes by
    another number of times than the objective."""
    conditioner = getattr(denoiser, "conditioner", None)
    for name, found, wanted in (
        ("classes", getattr(conditioner, "num_classes", None), NUM_CLASSES),
        ("channels", denoiser.projections.in_channels, 1),
        ("times", 1 if getattr(conditioner, "second", None) is None else 2, objective.times),
    ):
        if found != wanted:
            raise ValueError(f"recipe: denoiser: it must have {name} = {wanted} here, got {found}")
