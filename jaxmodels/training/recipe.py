"""A training run as one JSON file."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checks import shown, whole
from jaxmodels.training.objectives.block_diffusion import BlockDiffusion
from jaxmodels.training.objectives.certainty_forcing import CertaintyForcing
from jaxmodels.training.objectives.consistency import Consistency
from jaxmodels.training.objectives.coupled import Coupled
from jaxmodels.training.objectives.distillation import Distillation
from jaxmodels.training.objectives.early_exits import EarlyExits
from jaxmodels.training.objectives.jacobi_forcing import JacobiForcing
from jaxmodels.training.objectives.masked_diffusion import MaskedDiffusion
from jaxmodels.training.objectives.maskgit import MaskGIT
from jaxmodels.training.objectives.next_token import NextToken
from jaxmodels.training.objectives.objective import Objective
from jaxmodels.training.objectives.recursions import Recursions
from jaxmodels.training.optimizer import AdamW, Muon, WarmupCosine, WarmupStableDecay
from jaxmodels.training.router_losses import RouterLosses

T = TypeVar("T")
# The least values of a recipe's whole numbers.
_LEAST = {
    "sequence_length": 2,
    "batch_size": 1,
    "accumulate": 1,
    "evaluate_every": 1,
    "checkpoint_every": 1,
    "log_every": 1,
    "evaluation_windows": 1,
}
# What the types of fields are called in JSON.
_IN_JSON: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    str | None: "a text or null",
    tuple[str, ...]: "a list of texts",
}
_OPTIMIZERS = {"adamw": AdamW, "muon": Muon}
_OBJECTIVES = {
    "next_token": NextToken,
    "masked_diffusion": MaskedDiffusion,
    "block_diffusion": BlockDiffusion,
    "certainty_forcing": CertaintyForcing,
    "consistency": Consistency,
    "jacobi_forcing": JacobiForcing,
    "coupled": Coupled,
    "maskgit": MaskGIT,
    "distillation": Distillation,
    "early_exits": EarlyExits,
    "recursions": Recursions,
}
_SCHEDULES = {"warmup_cosine": WarmupCosine, "warmup_stable_decay": WarmupStableDecay}
# Fields that hold one of several classes, which JSON names by a `kind`, and the kind where it does not.
_KINDS: tuple[tuple[str, Mapping[str, type], str | None], ...] = (
    ("schedule", _SCHEDULES, None),
    ("optimizer", _OPTIMIZERS, "adamw"),
    ("objective", _OBJECTIVES, "next_token"),
)


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides a training run.

    Attributes:
        model: a Hugging Face `config.json` as a dict.
        train_files, held_out_files: what `resolve_files` takes: globs, directories, `stdlib:train`,
            `stdlib:held-out`. Of pairs of prompts and answers (see `load_stream`) only answers are trained.
        schedule: learning rate of each step, and the number of steps. In JSON it carries a `kind`,
            `warmup_cosine` or `warmup_stable_decay`.
        optimizer: in JSON it may carry a `kind`, `adamw` (the default) or `muon`.
        objective: what the model is trained for; in JSON it carries a `kind`, `next_token` (the default) or
            another of `training.objectives`.
        start_from: a model directory or bundled name whose weights the run begins with; `model` must
            describe that model. None draws them afresh.
        adapt_from: a model directory or bundled name, of another architecture, whose weights the run begins
            with as far as they fit; see `load_adapted`.
        tokenizer: a directory with a `tokenizer.json`, or a bundled name. None takes that of the model that
            the run begins with, or else trains a byte-level BPE of the model's `vocab_size` on the training
            files. Where the model has a mask token, it is added as `<|mask|>`.
        sequence_length: tokens per window.
        batch_size: windows per step, over all micro-batches.
        accumulate: micro-batches per step.
        stack: how blocks are run, "unrolled" or "scanned" (see `models.scanned`; for deep models).
        router_losses: for models with mixtures of experts.
        seed: of the initial parameters, the order of the data and the noise of router losses.
        evaluate_every, checkpoint_every, log_every: in steps.
        evaluation_windows: held-out windows scored at each periodic evaluation.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    model: Mapping[str, Any]
    train_files: tuple[str, ...]
    held_out_files: tuple[str, ...]
    schedule: WarmupCosine | WarmupStableDecay
    optimizer: AdamW | Muon = field(default_factory=AdamW)
    objective: Objective = field(default_factory=NextToken)
    start_from: str | None = None
    adapt_from: str | None = None
    tokenizer: str | None = None
    sequence_length: int = 512
    batch_size: int = 16
    accumulate: int = 1
    stack: str = "unrolled"
    router_losses: RouterLosses | None = None
    seed: int = 0
    evaluate_every: int = 200
    checkpoint_every: int = 200
    log_every: int = 10
    evaluation_windows: int = 64

    def __post_init__(self) -> None:
        for name, low in _LEAST.items():
            whole(f"Recipe: {name}", getattr(self, name), low=low)
        whole("Recipe: seed", self.seed, high=2**63 - 1)
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"Recipe: batch_size={self.batch_size} is not divisible by accumulate={self.accumulate}"
            )
        if self.start_from is not None and self.adapt_from is not None:
            raise ValueError(
                f"Recipe: start_from={self.start_from!r} and adapt_from={self.adapt_from!r}: a run begins "
                "with one model; leave one of them out"
            )
        if self.stack not in ("unrolled", "scanned"):
            raise ValueError(f"Recipe: stack must be 'unrolled' or 'scanned', got {self.stack!r}")
        for name in ("train_files", "held_out_files"):
            if not getattr(self, name):
                raise ValueError(f"Recipe: {name} is empty; name at least one file or pattern")
        if not isinstance(self.model.get("vocab_size"), int):
            raise ValueError(
                f"Recipe: model needs an integer vocab_size, got {self.model.get('vocab_size')!r}"
            )

    @property
    def steps(self) -> int:
        """Optimizer steps of the whole run."""
        return self.schedule.total_steps


def recipe_from_dict(values: Mapping[str, Any]) -> Recipe:
    """A `Recipe` from parsed JSON.

    Raises:
        ValueError: a key is unknown or missing, or a value is of the wrong type; the message names it.

    A key `z_loss` is short for that of the objective.
    """
    values = dict(values)
    if "z_loss" in values:
        values["objective"] = {"z_loss": values.pop("z_loss"), **values.get("objective", {})}
    for name in ("train_files", "held_out_files"):
        if isinstance(values.get(name), list):
            values[name] = tuple(values[name])
    for name, kinds, default in _KINDS:
        if isinstance(values.get(name), Mapping):
            values[name] = _build_kind(name, kinds, {"kind": default, **values[name]})
    if isinstance(values.get("router_losses"), Mapping):
        values["router_losses"] = _build(RouterLosses, values["router_losses"], "recipe: router_losses.")
    return _build(Recipe, values, "recipe: ")


def recipe_to_dict(recipe: Recipe) -> dict[str, Any]:
    """The inverse of `recipe_from_dict`: values that JSON can hold."""
    values = {f.name: getattr(recipe, f.name) for f in dataclasses.fields(recipe)}
    for name, kinds, _ in _KINDS:
        (kind,) = [kind for kind, cls in kinds.items() if type(values[name]) is cls]
        values[name] = {"kind": kind, **dataclasses.asdict(values[name])}
    if recipe.router_losses is not None:
        values["router_losses"] = dataclasses.asdict(recipe.router_losses)
    values["model"] = dict(recipe.model)
    values["train_files"] = list(recipe.train_files)
    values["held_out_files"] = list(recipe.held_out_files)
    return values


def load_recipe(name_or_path: str | Path) -> Recipe:
    """Reads a recipe file, or one of those that come with the package by its name (`list_recipes`).

    Raises:
        FileNotFoundError: it is neither; the message lists the names.
        ValueError: the file is not JSON, or not a recipe.
    """
    path = Path(name_or_path)
    if not path.is_file():
        if str(name_or_path) not in list_recipes():
            raise FileNotFoundError(
                f"{str(name_or_path)!r} is neither a recipe file nor one of the recipes of the package: "
                f"{', '.join(list_recipes())}"
            )
        path = Path(str(resources.files("jaxmodels.training") / "recipes" / f"{name_or_path}.json"))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{str(path)!r} must hold a JSON object, got {type(values).__name__}")
    try:
        return recipe_from_dict(values)
    except ValueError as error:
        raise ValueError(f"{str(path)!r}: {error}") from error


def save_recipe(recipe: Recipe, path: str | Path) -> None:
    """Writes a file that `load_recipe` reads."""
    replace_file(Path(path), json.dumps(recipe_to_dict(recipe), indent=2) + "\n")


def list_recipes() -> list[str]:
    """Names of the recipes that come with the package."""
    files = (resources.files("jaxmodels.training") / "recipes").iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def _build_kind(name: str, kinds: Mapping[str, type], values: Mapping[str, Any]) -> Any:
    """Constructs the dataclass that `values["kind"]` names from the other values."""
    fields = dict(values)
    kind = fields.pop("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise ValueError(f"recipe: {name}.kind must be one of {sorted(kinds)}, got {shown(kind)}")
    return _build(kinds[kind], fields, f"recipe: {name}.")


def _build(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """Constructs a dataclass from a dict with exactly its keys, checking the type of each value."""
    fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
    unknown = [key for key in values if key not in fields]
    if unknown:
        raise ValueError(f"{where}{unknown[0]} is not known; accepted are {', '.join(fields)}")
    for name, f in fields.items():
        required = f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise ValueError(f"{where}{name} is missing")
    for name, value in values.items():
        if not _accepts(fields[name].type, value):
            expected = _IN_JSON.get(fields[name].type, "an object")
            raise ValueError(f"{where}{name} must be {expected}, got {shown(value)}")
    return cls(**values)


def _accepts(expected: Any, value: Any) -> bool:
    if expected is int or expected is float:
        numbers = (int,) if expected is int else (int, float)
        return isinstance(value, numbers) and not isinstance(value, bool)
    if expected == tuple[str, ...]:
        return isinstance(value, tuple) and all(isinstance(item, str) for item in value)
    return isinstance(value, Mapping if expected == Mapping[str, Any] else expected)
