"""A whole training run of a draft head in one directory, resumable at any time.

recipe.json          what is trained; a second call must bring the same
head/                checkpoints and metrics.jsonl
result.json          what the kind of head is measured by on the held-out text
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int
from rich.console import Console

import jaxmodels.io
from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.layers.spec import Params, init_params
from jaxmodels.models.decoder import Decoder
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.training.data import cut_windows
from jaxmodels.training.draft_heads.objective import Pupil, Seen
from jaxmodels.training.draft_heads.recipe import DRAFT_HEAD_RECIPES, DraftHeadRecipe
from jaxmodels.training.fitting import Fitting, claim
from jaxmodels.training.run_directory import only_trainer
from jaxmodels.training.tokenizer import load_tokenizer
from jaxmodels.training.train import TrainState


@dataclass(frozen=True, kw_only=True)
class DraftHeadRun:
    """A trained head with f32 parameters, what it drafts for, and the recipe that it was trained by."""

    recipe: DraftHeadRecipe
    pupil: Pupil


def train_draft_head(
    recipe: DraftHeadRecipe, output_dir: str | Path, *, console: Console | None = None
) -> DraftHeadRun:
    """Trains, or goes on from the last checkpoint in `output_dir`.

    Raises:
        ValueError: `output_dir` belongs to another recipe, another process trains in it, a file cannot be
            used, or the head is not for the target.
        CheckpointError: the target cannot be read.
        FileNotFoundError: a pattern matches no file.
    """
    console = Console(stderr=True) if console is None else console
    output = Path(output_dir)
    target = jaxmodels.io.as_language_model(jaxmodels.io.load(recipe.target, "float32"), recipe.target)
    head = recipe.head.head(target.decoder)
    head.check_target(target.config)
    tokenizer = load_tokenizer(resolve(recipe.target))
    with only_trainer(output):
        claim(output, DRAFT_HEAD_RECIPES, recipe)
        windows, held_out = (
            cut_windows(files, recipe.sequence_length, target.config.vocab_size, tokenizer)
            for files in (recipe.train_files, recipe.held_out_files)
        )
        pupil = Pupil(
            head=head,
            params=init_params(head.spec(), jax.random.key(recipe.seed)),
            target=Target(target.config, target.params),
            token_ids=_known_tokens(recipe, windows, target.config.vocab_size),
        )

        def loss(params: Params, state: TrainState, tokens: Array, key: Array) -> tuple[Array, Array]:
            value, _ = recipe.head.loss(replace(pupil, params=params), see(pupil, tokens), key)
            return value, value

        fitting = Fitting(
            output=output / "head",
            seed=recipe.seed,
            log_every=recipe.log_every,
            checkpoint_every=recipe.checkpoint_every,
            console=console,
        )
        params = fitting.run(head, recipe.fit, windows, loss, start=recipe.head.start(pupil))
        trained = replace(pupil, params=params)
        measure, found = recipe.head.measure, held_out_mean(recipe, trained, held_out)
        replace_file(output / "result.json", json.dumps({measure: found}, indent=2) + "\n")
        console.print(f"held out: {measure} {found:.4f}")
    return DraftHeadRun(recipe=recipe, pupil=trained)


def see(pupil: Pupil, tokens: Int[Array, "B S"]) -> Seen:
    """What the target computes of windows of text."""
    config: Any = pupil.target.config
    assert isinstance(config, Decoder)
    scored = config.forward_scored(pupil.target.params, tokens, taps=pupil.head.taps)
    return Seen(tokens=tokens, scored=jax.lax.stop_gradient(scored))


def held_out_mean(recipe: DraftHeadRecipe, pupil: Pupil, windows: Int[np.ndarray, "N S"]) -> float:
    """The mean of what the loss tells, over the first held-out windows."""

    @jax.jit
    def told(params: Params, tokens: Array) -> Array:
        trained = replace(pupil, params=params)
        return recipe.head.loss(trained, see(trained, tokens), jax.random.key(recipe.seed))[1]

    windows = windows[: recipe.evaluation_windows]
    size = min(recipe.fit.batch_size, len(windows))
    batches = [windows[i : i + size] for i in range(0, len(windows) - size + 1, size)]
    return float(np.mean([float(told(pupil.params, jnp.asarray(batch))) for batch in batches]))


def _known_tokens(
    recipe: DraftHeadRecipe, windows: Int[np.ndarray, "N S"], vocab_size: int
) -> Int[Array, "W"] | None:
    """The tokens that the head is to know, None for all."""
    size = recipe.head.draft_vocab_size
    if size is None:
        return None
    if size > vocab_size:
        raise ValueError(
            f"recipe: head: draft_vocab_size={size} exceeds the target's vocabulary of {vocab_size} tokens"
        )
    return frequent_tokens(jnp.asarray(np.bincount(windows.ravel(), minlength=vocab_size)), size)


def frequent_tokens(counts: Int[Array, "V"], most: int) -> Int[Array, "W"]:
    """The numbers of the `most` frequent tokens in ascending order; among equals the smaller ones."""
    return jnp.sort(jnp.argsort(-counts, stable=True)[:most]).astype(jnp.int32)
