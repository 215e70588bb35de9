"""A whole training run of a next-scale model in one directory, resumable at any time.

recipe.json    what is trained; a second call must bring the same
vqvae/         checkpoints and metrics.jsonl of the autoencoder
var/           those of the model of its codes
model/         the two of them, as `jaxmodels.load` reads them
"""

from dataclasses import dataclass, replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from rich.console import Console

from jaxmodels.layers.spec import Params
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.autoencoders.multi_scale import MultiScaleVQ
from jaxmodels.models.next_scale.families import NEXT_SCALE_MODELS
from jaxmodels.models.next_scale.var import VAR
from jaxmodels.training.fitting import Fitting, claim
from jaxmodels.training.images.digits import NUM_CLASSES, Digits, load_digits, moved
from jaxmodels.training.next_scale.objectives import revive
from jaxmodels.training.next_scale.recipe import NEXT_SCALE_RECIPES, NextScaleRecipe
from jaxmodels.training.run_directory import only_trainer
from jaxmodels.training.train import TrainState

# Images are encoded so many at a time.
_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class NextScaleRun:
    """A trained next-scale model: the autoencoder and the model of its codes, with f32 parameters."""

    autoencoder: MultiScaleVQ
    autoencoder_params: Params
    var: VAR
    var_params: Params


def train_next_scale(
    recipe: NextScaleRecipe, output_dir: str | Path, *, console: Console | None = None
) -> NextScaleRun:
    """Trains, or goes on from the last checkpoint in `output_dir`; as `train_images`.

    Raises:
        ValueError: `output_dir` belongs to another recipe, another process trains in it, or the two models do
            not fit each other.
        ConfigError: a model's configuration cannot be read.
        ImportError: scikit-learn is not installed.
    """
    console = Console(stderr=True) if console is None else console
    output = Path(output_dir)
    autoencoder, model = AUTOENCODERS.read(recipe.vqvae), NEXT_SCALE_MODELS.read(recipe.var)
    if not isinstance(autoencoder, MultiScaleVQ):
        raise ValueError(f"recipe: vqvae: _class_name must be VQVAE, got {recipe.vqvae['_class_name']}")
    _check_fit(autoencoder, model)

    def fitting(name: str) -> Fitting:
        return Fitting(
            output=output / name,
            seed=recipe.seed,
            log_every=recipe.log_every,
            checkpoint_every=recipe.checkpoint_every,
            console=console,
        )

    with only_trainer(output):
        claim(output, NEXT_SCALE_RECIPES, recipe)
        digits = moved(load_digits(autoencoder.size)[0], recipe.shift)
        autoencoder_params = _fit_autoencoder(recipe, autoencoder, digits, fitting("vqvae"))
        codes = _codes(autoencoder, autoencoder_params, digits)
        held = {name: autoencoder_params[name] for name in autoencoder.pyramid.spec()}

        def loss(
            params: Params, state: TrainState, batch: tuple[Array, Array], key: Array
        ) -> tuple[Array, Array]:
            value = recipe.codes.loss(model, params, autoencoder.pyramid, held, *batch, key)
            return value, value

        params = fitting("var").run(model, recipe.fit_var, (codes, digits.labels), loss)
    return NextScaleRun(
        autoencoder=autoencoder, autoencoder_params=autoencoder_params, var=model, var_params=params
    )


def _fit_autoencoder(
    recipe: NextScaleRecipe, model: MultiScaleVQ, digits: Digits, fitting: Fitting
) -> Params:
    fit, images = recipe.fit_vqvae, digits.images
    until = fit.schedule.total_steps * 4 // 5

    def loss(params: Params, state: TrainState, batch: Array, key: Array) -> tuple[Array, Array]:
        return recipe.codebook.loss(model, params, batch)

    @jax.jit
    def revived(state: TrainState, batch: Array, key: Array) -> TrainState:
        return replace(state, params=revive(model, state.params, batch, key)[0])

    def care(state: TrainState, step: int) -> TrainState:
        if step % recipe.revive_every or step >= until:
            return state
        chosen = np.random.default_rng((recipe.seed, step)).integers(len(images), size=_BATCH)
        return revived(state, jnp.asarray(images[chosen]), jax.random.key(step))

    return fitting.run(model, fit, images, loss, before=care)


def _codes(model: MultiScaleVQ, params: Params, digits: Digits) -> Int[np.ndarray, "N L"]:
    encode = jax.jit(model.codes)
    pieces = [digits.images[i : i + _BATCH] for i in range(0, len(digits.images), _BATCH)]
    return np.concatenate([np.asarray(encode(params, piece)) for piece in pieces])


def _check_fit(autoencoder: MultiScaleVQ, model: VAR) -> None:
    """Raises ValueError, with both values, where the second cannot be a model of the first's codes."""
    pyramid = autoencoder.pyramid
    for name, found, wanted in (
        ("patch_nums", model.sides, pyramid.sides),
        ("V", model.num_codes, pyramid.num_codes),
        ("Cvae", model.code_width, pyramid.code_width),
        ("num_classes", model.num_classes, NUM_CLASSES),
    ):
        if found != wanted:
            raise ValueError(f"recipe: var: {name} must be {wanted} for these images, got {found}")
