"""A training run of an image model as one JSON file."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checks import shown, whole
from jaxmodels.training.images.vq import VQObjective
from jaxmodels.training.objectives.maskgit import MaskGIT
from jaxmodels.training.optimizer import AdamW, WarmupCosine


@dataclass(frozen=True, kw_only=True)
class Fit:
    """How one of the two models is fitted.

    Attributes:
        schedule: learning rate of each step, and the number of steps.
        optimizer: what makes updates of gradients.
        batch_size: images per step.

    Raises:
        ValueError: `batch_size` is below 1.
    """

    schedule: WarmupCosine
    optimizer: AdamW = field(default_factory=AdamW)
    batch_size: int = 32

    def __post_init__(self) -> None:
        whole("Fit: batch_size", self.batch_size, low=1)


@dataclass(frozen=True, kw_only=True)
class ImageRecipe:
    """Everything that decides a training run: first of an autoencoder, then of a model of its codes.

    Attributes:
        image_size: height and width of the digits, a multiple of 8.
        autoencoder: the ``config.json`` of an autoencoder.
        transformer: the Hugging Face ``config.json`` of a model that fills masks. Its vocabulary is the
            codes, the ten classes and the mask token.
        fit_autoencoder, fit_transformer: how each is fitted.
        codebook: the autoencoder's objective.
        masking: the transformer's objective.
        shift: images are also moved by up to so many pixels in both directions.
        revive_every: steps between two looks for codes that no image has, over the first four fifths of the
            autoencoder's run.
        seed: of the initial parameters, the order of the images and all noise.
        log_every, checkpoint_every: in steps.

    Raises:
        ValueError: a field is out of range; the message names it.
    """

    image_size: int
    autoencoder: Mapping[str, Any]
    transformer: Mapping[str, Any]
    fit_autoencoder: Fit
    fit_transformer: Fit
    codebook: VQObjective = field(default_factory=VQObjective)
    masking: MaskGIT = field(default_factory=MaskGIT)
    shift: int = 1
    revive_every: int = 50
    seed: int = 0
    log_every: int = 50
    checkpoint_every: int = 200

    def __post_init__(self) -> None:
        for name in ("image_size", "revive_every", "log_every", "checkpoint_every"):
            whole(f"ImageRecipe: {name}", getattr(self, name), low=1)
        whole("ImageRecipe: shift", self.shift)
        whole("ImageRecipe: seed", self.seed, high=2**63 - 1)


# The fields that JSON has as objects, and what they become.
_PARTS: Mapping[type, Mapping[str, type]] = {
    ImageRecipe: {
        "fit_autoencoder": Fit,
        "fit_transformer": Fit,
        "codebook": VQObjective,
        "masking": MaskGIT,
    },
    Fit: {"schedule": WarmupCosine, "optimizer": AdamW},
}


def image_recipe_from_dict(values: Mapping[str, Any]) -> ImageRecipe:
    """An `ImageRecipe` from parsed JSON.

    Raises:
        ValueError: a key is unknown or missing, or a value is of the wrong type; the message names it.
    """
    made = _build(ImageRecipe, values, "recipe")
    assert isinstance(made, ImageRecipe)
    return made


def image_recipe_to_dict(recipe: ImageRecipe) -> dict[str, Any]:
    """The inverse of `image_recipe_from_dict`: values that JSON can hold."""
    return dataclasses.asdict(recipe)


def load_image_recipe(name_or_path: str | Path) -> ImageRecipe:
    """Reads a recipe file, or one of those that come with the package by its name (`list_image_recipes`).

    Raises:
        FileNotFoundError: it is neither; the message lists the names.
        ValueError: the file is not JSON, or not a recipe.
    """
    path = Path(name_or_path)
    if not path.is_file():
        if str(name_or_path) not in list_image_recipes():
            raise FileNotFoundError(
                f"{str(name_or_path)!r} is neither a recipe file nor one of the recipes of the package: "
                f"{', '.join(list_image_recipes())}"
            )
        path = Path(str(resources.files("jaxmodels.training.images") / "recipes" / f"{name_or_path}.json"))
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
    return image_recipe_from_dict(values)


def is_image_recipe(name_or_path: str | Path) -> bool:
    """Whether a name or a file is a recipe of this kind, right or wrong: one with an autoencoder."""
    path = Path(name_or_path)
    if not path.is_file():
        return str(name_or_path) in list_image_recipes()
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        return False  # a recipe of texts is looked for, and the fault told
    return isinstance(values, dict) and "autoencoder" in values


def save_image_recipe(recipe: ImageRecipe, path: str | Path) -> None:
    """Writes a file that `load_image_recipe` reads."""
    replace_file(Path(path), json.dumps(image_recipe_to_dict(recipe), indent=2) + "\n")


def list_image_recipes() -> list[str]:
    """Names of the image recipes that come with the package."""
    files = (resources.files("jaxmodels.training.images") / "recipes").iterdir()
    return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))


def _build(cls: type, values: Any, where: str) -> Any:
    """Constructs a dataclass from an object with exactly its keys."""
    if not isinstance(values, Mapping):
        raise ValueError(f"{where} must be an object, got {shown(values)}")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    for key in values:
        if key not in fields:
            raise ValueError(f"{where}: {key} is not known; accepted are {', '.join(fields)}")
    for name, f in fields.items():
        if f.default is f.default_factory is dataclasses.MISSING and name not in values:
            raise ValueError(f"{where}: {name} is missing")
    parts = _PARTS.get(cls, {})
    built = {
        key: _build(parts[key], value, f"{where}: {key}") if key in parts else value
        for key, value in values.items()
    }
    try:
        return cls(**built)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}: {error}") from error
