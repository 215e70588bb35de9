"""A whole training run of an image model in one directory, resumable at any time.

recipe.json          what is trained; a second call must bring the same
autoencoder/         checkpoints and metrics.jsonl of the autoencoder
transformer/         those of the model of its codes
model/               the two of them, as `jaxmodels.load` reads them
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
from jaxmodels.models.autoencoders.vq import VQModel
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import config_from_hf
from jaxmodels.training.fitting import Fitting, claim
from jaxmodels.training.images.digits import NUM_CLASSES, Digits, load_digits, moved
from jaxmodels.training.images.recipe import IMAGE_RECIPES, ImageRecipe
from jaxmodels.training.images.vq import revive
from jaxmodels.training.objectives.objective import Windows
from jaxmodels.training.objectives.scorer import Scorer
from jaxmodels.training.run_directory import only_trainer
from jaxmodels.training.train import TrainState

# Images are encoded so many at a time.
_BATCH = 128


@dataclass(frozen=True, kw_only=True)
class ImageRun:
    """A trained image model: the autoencoder and the model of its codes, with f32 parameters."""

    autoencoder: VQModel
    autoencoder_params: Params
    transformer: Decoder
    transformer_params: Params


def train_images(recipe: ImageRecipe, output_dir: str | Path, *, console: Console | None = None) -> ImageRun:
    """Trains, or goes on from the last checkpoint in `output_dir`.

    Interrupted and resumed runs take the same steps as uninterrupted ones, bit for bit on the same machine.

    Raises:
        ValueError: `output_dir` belongs to another recipe, another process trains in it, or the two models do
            not fit each other.
        ConfigError: a model's configuration cannot be read.
        ImportError: scikit-learn is not installed.
    """
    console = Console(stderr=True) if console is None else console
    output = Path(output_dir)
    autoencoder, transformer = AUTOENCODERS.read(recipe.autoencoder), config_from_hf(recipe.transformer)
    if not isinstance(autoencoder, VQModel):
        raise ValueError(
            f"recipe: autoencoder: _class_name must be VQModel, got {recipe.autoencoder['_class_name']}"
        )
    _check_fit(autoencoder, transformer, recipe.image_size)
    with only_trainer(output):
        claim(output, IMAGE_RECIPES, recipe)
        digits = moved(load_digits(recipe.image_size)[0], recipe.shift)
        encoder_params = _fit_autoencoder(
            recipe, autoencoder, digits, _fitting(recipe, output / "autoencoder", console)
        )
        tokens = _tokens(autoencoder, encoder_params, digits)
        params = _fit_transformer(
            recipe, transformer, tokens, _fitting(recipe, output / "transformer", console)
        )
    return ImageRun(
        autoencoder=autoencoder,
        autoencoder_params=encoder_params,
        transformer=transformer,
        transformer_params=params,
    )


def _fitting(recipe: ImageRecipe, output: Path, console: Console) -> Fitting:
    return Fitting(
        output=output,
        seed=recipe.seed,
        log_every=recipe.log_every,
        checkpoint_every=recipe.checkpoint_every,
        console=console,
    )


def _fit_autoencoder(recipe: ImageRecipe, model: VQModel, digits: Digits, fitting: Fitting) -> Params:
    fit, images = recipe.fit_autoencoder, digits.images
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


def _fit_transformer(
    recipe: ImageRecipe, model: Decoder, tokens: Int[np.ndarray, "N S"], fitting: Fitting
) -> Params:
    def loss(params: Params, state: TrainState, batch: Array, key: Array) -> tuple[Array, Array]:
        windows = Windows(tokens=batch, predicted=jnp.ones(batch.shape, bool))
        value, _ = recipe.masking.loss(Scorer(model, params), recipe.masking.prepare(windows, key))
        return value, value

    return fitting.run(model, recipe.fit_transformer, tokens, loss)


def _tokens(model: VQModel, params: Params, digits: Digits) -> Int[np.ndarray, "N S"]:
    """Each image as its class, behind the codes in the vocabulary, and its codes."""
    encode = jax.jit(model.codes)
    pieces = [digits.images[i : i + _BATCH] for i in range(0, len(digits.images), _BATCH)]
    codes = np.concatenate([np.asarray(encode(params, piece)) for piece in pieces])
    classes = model.num_codes + digits.labels[:, None]
    return np.concatenate([classes, codes.reshape(len(codes), -1)], axis=1)


def _check_fit(autoencoder: VQModel, transformer: Decoder, image_size: int) -> None:
    """Raises ValueError, with both sizes, where the second cannot be a model of the first's codes."""
    places = 1 + (image_size // autoencoder.shape.factor) ** 2
    vocabulary = autoencoder.num_codes + NUM_CLASSES + 1
    for name, found, wanted in (
        ("max_position_embeddings", transformer.learned_positions, places),
        ("vocab_size", transformer.vocab_size, vocabulary),
    ):
        if found != wanted:
            raise ValueError(f"recipe: transformer: {name} must be {wanted} for these images, got {found}")
