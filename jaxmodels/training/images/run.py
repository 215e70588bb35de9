"""A whole training run of an image model in one directory, resumable at any time.

recipe.json          what is trained; a second call must bring the same
autoencoder/         checkpoints and metrics.jsonl of the autoencoder
transformer/         those of the model of its codes
model/               the two of them, as `jaxmodels.load` reads them
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from rich.console import Console

from jaxmodels.layers.spec import Params
from jaxmodels.models.autoencoders.families import AUTOENCODERS
from jaxmodels.models.autoencoders.vq import VQModel
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.families import config_from_hf
from jaxmodels.training.checkpointing import TrainCheckpoints
from jaxmodels.training.images.digits import NUM_CLASSES, Digits, load_digits, shifted
from jaxmodels.training.images.recipe import (
    Fit,
    ImageRecipe,
    image_recipe_to_dict,
    load_image_recipe,
    save_image_recipe,
)
from jaxmodels.training.images.vq import revive
from jaxmodels.training.metrics import append_metrics, rewind_metrics
from jaxmodels.training.objectives.objective import Windows
from jaxmodels.training.objectives.scorer import Scorer
from jaxmodels.training.run_directory import RECIPE_FILE, only_trainer
from jaxmodels.training.train import TrainState, abstract_state, init_state

# From the parameters, a batch and a key to what is differentiated, and to what is told beside it.
Loss: TypeAlias = Callable[[Params, Any, Array], tuple[Float[Array, ""], Float[Array, ""]]]

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
    _check_fit(autoencoder, transformer, recipe.image_size)
    with only_trainer(output):
        _claim(output, recipe)
        digits, _ = load_digits(recipe.image_size)
        moved = _moved(digits, recipe.shift)
        stage = _Stage(recipe=recipe, output=output / "autoencoder", console=console)
        encoder_params = stage.fit_autoencoder(autoencoder, moved)
        tokens = _tokens(autoencoder, encoder_params, moved)
        stage = _Stage(recipe=recipe, output=output / "transformer", console=console)
        params = stage.fit_transformer(transformer, tokens)
    return ImageRun(
        autoencoder=autoencoder,
        autoencoder_params=encoder_params,
        transformer=transformer,
        transformer_params=params,
    )


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """The fitting of one of the two models, in a directory of its own."""

    recipe: ImageRecipe
    output: Path
    console: Console

    def fit_autoencoder(self, model: VQModel, digits: Digits) -> Params:
        recipe, fit, images = self.recipe, self.recipe.fit_autoencoder, digits.images
        until = fit.schedule.total_steps * 4 // 5

        def loss(params: Params, batch: Array, key: Array) -> tuple[Array, Array]:
            return recipe.codebook.loss(model, params, batch)

        @jax.jit
        def revived(state: TrainState, batch: Array, key: Array) -> TrainState:
            return replace(state, params=revive(model, state.params, batch, key)[0])

        def care(state: TrainState, step: int) -> TrainState:
            if step % recipe.revive_every or step >= until:
                return state
            chosen = np.random.default_rng((recipe.seed, step)).integers(len(images), size=_BATCH)
            return revived(state, jnp.asarray(images[chosen]), jax.random.key(step))

        return self._fit(model, fit, images, loss, care)

    def fit_transformer(self, model: Decoder, tokens: Int[np.ndarray, "N S"]) -> Params:
        masking = self.recipe.masking

        def loss(params: Params, batch: Array, key: Array) -> tuple[Array, Array]:
            windows = Windows(tokens=batch, predicted=jnp.ones(batch.shape, bool))
            value, _ = masking.loss(Scorer(model, params), masking.prepare(windows, key))
            return value, value

        return self._fit(model, self.recipe.fit_transformer, tokens, loss, lambda state, step: state)

    def _fit(
        self,
        model: Any,
        fit: Fit,
        data: np.ndarray,
        loss: Loss,
        before: Callable[[TrainState, int], TrainState],
    ) -> Params:
        """before: what is done to the state in front of the step with this number."""
        recipe, log, total = self.recipe, self.output / "metrics.jsonl", fit.schedule.total_steps
        self.output.mkdir(parents=True, exist_ok=True)
        optimizer = fit.optimizer.build(fit.schedule, model.spec())
        update = _update(loss, optimizer, recipe.seed)
        with TrainCheckpoints(self.output / "checkpoints") as checkpoints:
            if checkpoints.latest_step() is None:
                state = init_state(model, optimizer, recipe.seed)
            else:
                state = checkpoints.restore(abstract_state(model, optimizer))
            first = int(state.step)
            rewind_metrics(log, first)
            began = time.perf_counter()
            batches = _batches(len(data), fit.batch_size, recipe.seed, first)
            for done in range(first + 1, total + 1):
                state = before(state, done - 1)
                state, told = update(state, jnp.asarray(data[next(batches)]))
                if done % recipe.log_every == 0 or done == total:
                    record = {"step": done, "seconds": time.perf_counter() - began, "loss": float(told)}
                    append_metrics(log, record)
                    self.console.print(f"{self.output.name} {done}/{total}: loss {record['loss']:.4f}")
                if done % recipe.checkpoint_every == 0 or done == total:
                    checkpoints.save(state)
        return state.params


def _update(
    loss: Loss, optimizer: optax.GradientTransformation, seed: int
) -> Callable[[TrainState, Array], tuple[TrainState, Array]]:
    """One compiled step; its state is donated."""

    def update(state: TrainState, batch: Array) -> tuple[TrainState, Array]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        (_, told), gradients = jax.value_and_grad(loss, has_aux=True)(state.params, batch, key)
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(step=state.step + 1, params=params, opt_state=opt_state), told

    return jax.jit(update, donate_argnums=0)


def _batches(count: int, size: int, seed: int, first: int) -> Iterator[Int[np.ndarray, " size"]]:
    """The images of each step from the step numbered `first` on: every pass has an order of its own."""
    per_pass = count // size
    for step in range(first, 2**62):
        turn, place = divmod(step, per_pass)
        order = np.random.default_rng((seed, turn)).permutation(count)
        yield order[place * size : (place + 1) * size]


def _moved(digits: Digits, shift: int) -> Digits:
    """The images at every place up to `shift` pixels from their own."""
    steps = range(-shift, shift + 1)
    places = [(down, right) for down in steps for right in steps]
    moved = [shifted(digits.images, place) for place in places]
    return Digits(images=np.concatenate(moved), labels=np.tile(digits.labels, len(places)))


def _tokens(model: VQModel, params: Params, digits: Digits) -> Int[np.ndarray, "N S"]:
    """Each image as its class, behind the codes in the vocabulary, and its codes."""
    encode = jax.jit(model.codes)
    pieces = [digits.images[i : i + _BATCH] for i in range(0, len(digits.images), _BATCH)]
    codes = np.concatenate([np.asarray(encode(params, piece)) for piece in pieces])
    classes = model.num_codes + digits.labels[:, None]
    return np.concatenate([classes, codes.reshape(len(codes), -1)], axis=1)


def _claim(output: Path, recipe: ImageRecipe) -> None:
    """Ties a directory to one recipe; raises ValueError where it is another's."""
    path = output / RECIPE_FILE
    if not path.exists():
        save_image_recipe(recipe, path)
        return
    saved, given = image_recipe_to_dict(load_image_recipe(path)), image_recipe_to_dict(recipe)
    changed = [f"{key}: {saved[key]!r} -> {given[key]!r}" for key in saved if saved[key] != given[key]]
    if changed:
        raise ValueError(
            f"{str(output)!r} holds a run of another recipe ({'; '.join(changed)}); choose another output_dir"
        )


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
