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
from tokenizers import Tokenizer

import jaxmodels.io
from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checkpoints.draft_heads import load_drafter
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.layers.spec import Params, init_params
from jaxmodels.models.draft_heads.feature_head import Target
from jaxmodels.training.data import cut_windows, resolve_files
from jaxmodels.training.draft_heads.aurora import AuroraTraining
from jaxmodels.training.draft_heads.objective import Pupil, Seen, see
from jaxmodels.training.draft_heads.recipe import DRAFT_HEAD_RECIPES, DraftHeadRecipe
from jaxmodels.training.draft_heads.traces import Windows, load_traces, windows_of
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
        CheckpointError: the target, or the head to begin with, cannot be read.
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
            _windows(recipe, files, target.config.vocab_size, tokenizer)
            for files in (recipe.train_files, recipe.held_out_files)
        )
        pupil = _first_pupil(recipe, head, Target(target.config, target.params), windows)

        def loss(params: Params, state: TrainState, batch: Windows, key: Array) -> tuple[Array, Array]:
            value, _ = recipe.head.loss(replace(pupil, params=params), _see(pupil, batch), key)
            return value, value

        fitting = Fitting(
            output=output / "head",
            seed=recipe.seed,
            log_every=recipe.log_every,
            checkpoint_every=recipe.checkpoint_every,
            console=console,
        )
        start = recipe.head.start(pupil) if recipe.start_from is None else pupil.params
        params = fitting.run(head, recipe.fit, windows, loss, start=start)
        trained = replace(pupil, params=params)
        measure, found = recipe.head.measure, held_out_mean(recipe, trained, held_out)
        replace_file(output / "result.json", json.dumps({measure: found}, indent=2) + "\n")
        console.print(f"held out: {measure} {found:.4f}")
    return DraftHeadRun(recipe=recipe, pupil=trained)


def _windows(
    recipe: DraftHeadRecipe, patterns: tuple[str, ...], vocab_size: int, tokenizer: Tokenizer
) -> Windows:
    """Windows of texts, or of traces for what learns from these."""
    size = recipe.sequence_length
    if isinstance(recipe.head, AuroraTraining):
        return windows_of([load_traces(file, vocab_size) for file in resolve_files(patterns)], size)
    return Windows(tokens=cut_windows(patterns, size, vocab_size, tokenizer))


def _first_pupil(recipe: DraftHeadRecipe, head: Any, target: Target, windows: Windows) -> Pupil:
    """The head that training begins with: that of `start_from`, else a random one.

    Raises:
        CheckpointError: there is no such head, or it is for another target.
        ValueError: it is another head than that of the recipe.
    """
    if recipe.start_from is None:
        params = init_params(head.spec(), jax.random.key(recipe.seed))
        known = _known_tokens(recipe, windows.tokens, target.config.vocab_size)
        return Pupil(head=head, params=params, target=target, token_ids=known)
    begun = load_drafter(recipe.start_from, target.config, dtype="float32")
    if replace(begun.head, layout=head.layout) != head:
        raise ValueError(
            f"recipe: start_from={recipe.start_from!r} is another head than the recipe's: {begun.head}, and "
            f"the recipe has {head}"
        )
    params = jax.tree.map(jnp.array, begun.params)  # copies: the first step of training donates them
    return Pupil(head=head, params=params, target=target, token_ids=getattr(begun, "token_ids", None))


def _see(pupil: Pupil, batch: Windows) -> Seen:
    """What the target computes of a batch, and what of it counts."""
    return replace(see(pupil, batch.tokens), weights=batch.weights, drafts=batch.drafts)


def held_out_mean(recipe: DraftHeadRecipe, pupil: Pupil, windows: Windows) -> float:
    """The mean of what the loss tells, over the first held-out windows."""

    @jax.jit
    def told(params: Params, batch: Windows) -> Array:
        trained = replace(pupil, params=params)
        return recipe.head.loss(trained, _see(trained, batch), jax.random.key(recipe.seed))[1]

    count = min(recipe.evaluation_windows, len(windows.tokens))
    size = min(recipe.fit.batch_size, count)
    starts = range(0, count - size + 1, size)
    batches = [jax.tree.map(lambda a, i=i: jnp.asarray(a[i : i + size]), windows) for i in starts]
    return float(np.mean([float(told(pupil.params, batch)) for batch in batches]))


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
