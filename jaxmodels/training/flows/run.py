"""A whole training run of a flow in one directory, resumable at any time.

recipe.json    what is trained; a second call must bring the same
flow/          checkpoints and metrics.jsonl
model/         the model, as `jaxmodels.load` reads it
"""

from dataclasses import dataclass
from pathlib import Path

from jaxtyping import Array
from rich.console import Console

from jaxmodels.layers.spec import Params
from jaxmodels.models.flows.families import FLOWS
from jaxmodels.models.flows.tarflow import TarFlow
from jaxmodels.training.fitting import Fitting, claim
from jaxmodels.training.flows.recipe import FLOW_RECIPES, FlowRecipe
from jaxmodels.training.images.digits import NUM_CLASSES, load_digits, moved
from jaxmodels.training.run_directory import only_trainer
from jaxmodels.training.train import TrainState


@dataclass(frozen=True, kw_only=True)
class FlowRun:
    """A trained flow, with f32 parameters."""

    flow: TarFlow
    params: Params


def train_flow(recipe: FlowRecipe, output_dir: str | Path, *, console: Console | None = None) -> FlowRun:
    """Trains, or goes on from the last checkpoint in `output_dir`; as `train_images`.

    Raises:
        ValueError: `output_dir` belongs to another recipe, another process trains in it, or the model is not
            one of digits.
        ConfigError: the model's configuration cannot be read.
        ImportError: scikit-learn is not installed.
    """
    console = Console(stderr=True) if console is None else console
    output, model = Path(output_dir), FLOWS.read(recipe.flow)
    for name, found, wanted in (
        ("num_classes", model.num_classes, NUM_CLASSES),
        ("in_channels", model.image_channels, 1),
    ):
        if found != wanted:
            raise ValueError(f"recipe: flow: {name} must be {wanted} for digits, got {found}")

    def loss(
        params: Params, state: TrainState, batch: tuple[Array, Array], key: Array
    ) -> tuple[Array, Array]:
        value = recipe.likelihood.loss(model, params, *batch, key)
        return value, value

    with only_trainer(output):
        claim(output, FLOW_RECIPES, recipe)
        digits = moved(load_digits(model.size)[0], recipe.shift)
        fitting = Fitting(
            output=output / "flow",
            seed=recipe.seed,
            log_every=recipe.log_every,
            checkpoint_every=recipe.checkpoint_every,
            console=console,
        )
        params = fitting.run(model, recipe.fit, (digits.images, digits.labels), loss)
    return FlowRun(flow=model, params=params)
