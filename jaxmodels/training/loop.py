"""A whole training run in one directory, resumable at any time.

recipe.json          what is trained; a second call must bring the same
data.json            size and checksum of the token streams; a resumed run must find the same data
tokenizer/           given or trained
checkpoints/         Orbax, the newest two
metrics.jsonl        training and held-out loss
loss.png             the curve, where matplotlib is installed
result.json          bits per byte of the held-out files
"""

import importlib.util
import json
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import optax
from jax.sharding import Mesh
from rich.console import Console
from tokenizers import Tokenizer

from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.layers.spec import Params, count_params
from jaxmodels.memory import check_fits
from jaxmodels.models.families import config_from_hf
from jaxmodels.models.filling import filling_of
from jaxmodels.models.scanned import ScannedDecoder
from jaxmodels.tpu_configs.rules import DEFAULT_RULES, Rules
from jaxmodels.tpu_configs.shardings import Placement
from jaxmodels.training.checkpointing import TrainCheckpoints
from jaxmodels.training.data import TOKEN_SUFFIXES, Batches, load_tokens, resolve_files
from jaxmodels.training.divergence import Diverged, Watch
from jaxmodels.training.evaluate import Score, make_held_out_loss, score_files
from jaxmodels.training.loss import nats_to_bits_per_byte
from jaxmodels.training.metrics import append_metrics, plot_loss, read_metrics, rewind_metrics
from jaxmodels.training.objectives.objective import Extending
from jaxmodels.training.on_mesh import Devices, first_process_first, is_first
from jaxmodels.training.pairs import Stream, holds_text, load_stream, texts_of
from jaxmodels.training.progress import TrainProgress
from jaxmodels.training.recipe import Recipe, load_recipe
from jaxmodels.training.run_directory import (
    RECIPE_FILE,
    check_owner,
    check_unchanged,
    claim,
    is_claimed,
    only_trainer,
)
from jaxmodels.training.start import load_adapted, load_start
from jaxmodels.training.tokenizer import load_tokenizer, save_tokenizer, train_tokenizer, with_mask
from jaxmodels.training.train import TrainState, abstract_state, first_state, init_state, make_train_step
from jaxmodels.training.trainable import Trainable


@dataclass(frozen=True, kw_only=True)
class Run:
    """A trained model: its recipe, architecture, f32 parameters and tokenizer."""

    recipe: Recipe
    model: Trainable
    params: Params
    tokenizer: Tokenizer


@dataclass(frozen=True, kw_only=True)
class TrainingData:
    """A recipe's data: the batches of both sides of the split, and the held-out files themselves."""

    tokenizer: Tokenizer
    train: Batches
    held_out: Batches
    held_out_files: tuple[Path, ...]
    held_out_bytes_per_token: float


def train(
    recipe: Recipe,
    output_dir: str | Path,
    *,
    model: Trainable | None = None,
    console: Console | None = None,
    mesh: Mesh | None = None,
    rules: Rules = DEFAULT_RULES,
) -> tuple[Run, Score]:
    """Trains, or goes on from the last checkpoint in `output_dir`, and scores the held-out files.

    Interrupted and resumed runs take the same steps as uninterrupted ones, bit for bit on the same machine.

    Args:
        recipe: what to train, on what.
        output_dir: created if need be; see the module for what it will hold.
        model: stands in for the architecture that `recipe.model` describes.
        console: where progress goes; standard error by default. A terminal gets a live bar, a file gets
            lines.
        mesh: devices that share the model and each batch, see `jaxmodels.tpu_configs.mesh.make_mesh`; a run
            may go on on another one. Where they are of several processes (see
            `jaxmodels.tpu_configs.hosts.connected`), all call this with the same arguments and see the same
            `output_dir`, which process 0 alone writes to but for checkpoints.
        rules: how parameters and batches lie on the mesh.

    Raises:
        ValueError: `output_dir` belongs to another recipe or other data, another process trains in it, or a
            file cannot be used, or the model that `recipe.start_from` names is not the recipe's.
        Diverged: a step gave NaN or an infinity; the checkpoints before it are kept.
        CheckpointError: a checkpoint cannot be written, none of the run can be read, or the model to start
            from cannot.
        FileNotFoundError: a pattern of the recipe matches no file.
    """
    console = Console(stderr=True, quiet=not is_first()) if console is None else console
    output = Path(output_dir)
    devices = Devices(placement=None if mesh is None else Placement(mesh=mesh, rules=rules))
    with only_trainer(output) if is_first() else nullcontext(), devices.in_use():
        return _train(recipe, output, model, console, devices)


def _train(
    recipe: Recipe, output: Path, model: Trainable | None, console: Console, devices: Devices
) -> tuple[Run, Score]:
    model = model_of(recipe) if model is None else model
    _check_batch_fits(recipe)
    recipe.objective.check(model)
    start = None
    with first_process_first("data"):
        check_owner(output, recipe)
        if not is_claimed(output):
            start = _load_start(recipe, model)
        data = prepare_data(recipe, output, mask_token=_mask_token(model))
        claim(output, recipe)
    console.print(
        f"{count_params(model.spec()):,} parameters, {len(data.train.tokens):,} training tokens, "
        f"{recipe.steps * recipe.batch_size * recipe.sequence_length / len(data.train.tokens):.2f} epochs"
    )
    params = _fit(recipe, model, start, data, output, console, devices).params
    score = score_files(
        model,
        params,
        data.tokenizer,
        data.held_out_files,
        window=recipe.sequence_length,
        overlap=recipe.sequence_length // 2,
        estimator=recipe.objective.estimator,
    )
    if not math.isfinite(score.bits_per_byte):
        raise Diverged(f"the held-out files score {score.bits_per_byte} bits per byte in {str(output)!r}")
    result = {
        "steps": recipe.steps,
        "held_out_bits_per_byte": score.bits_per_byte,
        "held_out_nats_per_token": score.nats_per_token,
        "held_out_bytes": score.num_bytes,
        "held_out_tokens": score.num_tokens,
    }
    if score.standard_error:
        result["standard_error_of_bits_per_byte"] = score.bits_per_byte_error
    if is_first():
        replace_file(output / "result.json", json.dumps(result, indent=2) + "\n")
    if is_first() and importlib.util.find_spec("matplotlib") is not None:
        plot_loss(output / "metrics.jsonl", output / "loss.png")
    error = f" +- {score.bits_per_byte_error:.4f}" if score.standard_error else ""
    console.print(f"held out: {score.bits_per_byte:.4f}{error} bits per byte over {score.num_bytes:,} bytes")
    return Run(recipe=recipe, model=model, params=params, tokenizer=data.tokenizer), score


def load_run(output_dir: str | Path, *, model: Trainable | None = None) -> Run:
    """The newest checkpoint of a run, finished or not.

    Args:
        output_dir: as given to `train`.
        model: as given to `train`.

    Raises:
        FileNotFoundError: there is no run or no checkpoint.
    """
    output = Path(output_dir)
    if not (output / RECIPE_FILE).is_file():
        raise FileNotFoundError(f"load_run: no run in {str(output)!r}: it has no recipe.json")
    recipe = load_recipe(output / RECIPE_FILE)
    model = model_of(recipe) if model is None else model
    optimizer = recipe.optimizer.build(recipe.schedule, model.spec())
    with TrainCheckpoints(output / "checkpoints") as checkpoints:
        state = checkpoints.restore(abstract_state(model, optimizer))
    return Run(
        recipe=recipe, model=model, params=state.params, tokenizer=load_tokenizer(output / "tokenizer")
    )


def prepare_data(recipe: Recipe, output: Path, mask_token: int | None = None) -> TrainingData:
    """Finds, tokenizes and fingerprints a recipe's files; trains the tokenizer if the recipe names none, and
    adds the `mask_token` of the model if it has one.

    Raises:
        ValueError: a file cannot be used, held-out files are not text, or the data changed since the run
            began.
        FileNotFoundError: a pattern matches no file.
    """
    files = resolve_files(recipe.train_files)
    held_out_files = resolve_files(recipe.held_out_files)
    for path in held_out_files:
        if not holds_text(path):
            raise ValueError(
                f"held_out_files: {str(path)!r} holds tokens or pairs; bits per byte need the text"
            )
    shared = set(files) & set(held_out_files)
    if shared:
        raise ValueError(f"held_out_files: {str(min(shared))!r} is also one of train_files")
    tokenizer = _tokenizer(recipe, files, output / "tokenizer", mask_token)
    vocab_size = recipe.model["vocab_size"]
    stream = load_stream(files, vocab_size, tokenizer)
    held_out = load_tokens(held_out_files, vocab_size, tokenizer)
    predicted = {} if stream.predicted is None else {"predicted": stream.predicted}
    check_unchanged(output, {"train": stream.tokens, "held_out": held_out} | predicted)
    num_bytes = sum(path.stat().st_size for path in held_out_files)
    return TrainingData(
        tokenizer=tokenizer,
        train=_batches(recipe, "train_files", stream, recipe.seed),
        held_out=_batches(recipe, "held_out_files", Stream(held_out), 0),
        held_out_files=held_out_files,
        held_out_bytes_per_token=num_bytes / len(held_out),
    )


def _fit(
    recipe: Recipe,
    model: Trainable,
    start: Params | None,
    data: TrainingData,
    output: Path,
    console: Console,
    devices: Devices,
) -> TrainState:
    optimizer = recipe.optimizer.build(recipe.schedule, model.spec())
    shardings = devices.state(model, optimizer)
    train_step = make_train_step(
        model,
        optimizer,
        recipe.schedule,
        objective=recipe.objective,
        accumulate=recipe.accumulate,
        router_losses=recipe.router_losses,
        seed=recipe.seed,
        shardings=shardings,
    )
    num_batches = max(1, recipe.evaluation_windows // recipe.batch_size)
    held_out_loss = make_held_out_loss(model, data.held_out, num_batches, recipe.objective.estimator)
    log = output / "metrics.jsonl"
    with TrainCheckpoints(output / "checkpoints") as checkpoints:
        if checkpoints.latest_step() is None:
            state = _first_state(recipe, model, optimizer, start, devices)
        else:
            state = checkpoints.restore(devices.abstract_state(model, optimizer))
            checkpoints.set_aside_after(int(state.step))
        first = int(state.step)
        watch = Watch(checkpoints.latest_step())
        if is_first():
            rewind_metrics(log, first)
        began = time.perf_counter() - _seconds_so_far(log)
        with TrainProgress(console, recipe, first) as progress:
            for done in range(first + 1, recipe.steps + 1):
                batch = devices.rows(data.train(done - 1)), devices.rows(data.train.mask(done - 1))
                state, metrics = train_step(state, *batch)
                progress.advance(done, metrics["loss"])
                watch.add(done, metrics)
                logs, evaluates, saves = (
                    _due(done, every, recipe)
                    for every in (recipe.log_every, recipe.evaluate_every, recipe.checkpoint_every)
                )
                if logs or evaluates or saves:
                    watch.check()
                record: dict[str, float] = {}
                if logs:
                    told = {name: float(value) for name, value in metrics.items() if name != "finite"}
                    record |= told | progress.interval()
                if evaluates:
                    nats = held_out_loss(state.params)
                    watch.check_held_out(done, nats)
                    per_byte = nats_to_bits_per_byte(nats, 1) / data.held_out_bytes_per_token
                    record |= {"held_out_loss": nats, "held_out_bits_per_byte": per_byte}
                if record:
                    record = {"step": done, "seconds": time.perf_counter() - began} | record
                    if is_first():
                        append_metrics(log, record)
                    progress.report(record)
                if saves:
                    checkpoints.save(state)
                    watch.last_saved = done
    return state


def _first_state(
    recipe: Recipe,
    model: Trainable,
    optimizer: optax.GradientTransformation,
    start: Params | None,
    devices: Devices,
) -> TrainState:
    # a run that was killed before its first checkpoint has to read its start again
    start = _load_start(recipe, model) if start is None else start
    shardings = devices.state(model, optimizer)
    if start is None:
        return init_state(model, optimizer, recipe.seed, shardings)
    return devices.placed(first_state(start, optimizer), shardings)


def _load_start(recipe: Recipe, model: Trainable) -> Params | None:
    """The weights that the recipe says a run begins with; None where it draws them."""
    if recipe.start_from is not None:
        return load_start(recipe.start_from, model)
    if recipe.adapt_from is not None:
        return load_adapted(recipe.adapt_from, model, recipe.seed)
    return None


def _mask_token(model: Trainable) -> int | None:
    filling = filling_of(model)
    return None if filling is None else filling.mask_token


def _due(step: int, every: int, recipe: Recipe) -> bool:
    return step % every == 0 or step == recipe.steps


def model_of(recipe: Recipe) -> Trainable:
    """What a recipe trains: its model, with what its objective trains beside it.

    Raises ValueError where its model is none of the zoo, or cannot be trained so.
    """
    decoder = config_from_hf(dict(recipe.model))
    model = ScannedDecoder(decoder) if recipe.stack == "scanned" else decoder
    return recipe.objective.extended(model) if isinstance(recipe.objective, Extending) else model


def _check_batch_fits(recipe: Recipe) -> None:
    """Raises ValueError where a batch or the logits of a micro-batch are larger than the free memory."""
    tokens, vocab_size = recipe.batch_size * recipe.sequence_length, recipe.model["vocab_size"]
    check_fits(
        f"a step of batch_size={recipe.batch_size} windows of sequence_length={recipe.sequence_length} "
        f"tokens, with accumulate={recipe.accumulate} and vocab_size={vocab_size},",
        4 * tokens + 4 * tokens * vocab_size // recipe.accumulate,
    )


def _batches(recipe: Recipe, side: str, stream: Stream, seed: int) -> Batches:
    if len(stream.tokens) < recipe.sequence_length:
        raise ValueError(
            f"{side}: {len(stream.tokens)} tokens are fewer than one window of "
            f"sequence_length={recipe.sequence_length}; add text or shorten the window"
        )
    return Batches(
        tokens=stream.tokens,
        batch_size=recipe.batch_size,
        sequence_length=recipe.sequence_length,
        seed=seed,
        predicted=stream.predicted,
    )


def _tokenizer(recipe: Recipe, files: tuple[Path, ...], directory: Path, mask_token: int | None) -> Tokenizer:
    if is_claimed(directory.parent) and (directory / "tokenizer.json").is_file():
        return load_tokenizer(directory)
    begins_with = recipe.start_from or recipe.adapt_from
    if recipe.tokenizer is not None:
        tokenizer = load_tokenizer(resolve(recipe.tokenizer))
    elif begins_with is not None:
        tokenizer = load_tokenizer(resolve(begins_with))
    else:
        texts = [text for path in files if path.suffix not in TOKEN_SUFFIXES for text in texts_of(path)]
        if not texts:
            raise ValueError("tokenizer: train_files hold no text to train one on; name its directory")
        size = recipe.model["vocab_size"] if mask_token is None else mask_token
        tokenizer = train_tokenizer(texts, size)
    if mask_token is not None:
        tokenizer = with_mask(tokenizer, mask_token)
    save_tokenizer(tokenizer, directory)
    return tokenizer


def _seconds_so_far(log: Path) -> float:
    records = read_metrics(log)
    return records[-1].get("seconds", 0.0) if records else 0.0
