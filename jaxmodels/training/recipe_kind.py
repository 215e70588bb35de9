"""Kinds of training recipes: JSON objects that become one dataclass each, as files and with the package."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from jaxmodels.checkpoints.atomic import replace_file
from jaxmodels.checks import shown

T = TypeVar("T")
# What a field that JSON has as an object becomes: one class, or one of several that its `kind` names.
Part: TypeAlias = type | Mapping[str, type]


@dataclass(frozen=True, kw_only=True)
class RecipeKind(Generic[T]):
    """One kind of recipe.

    Attributes:
        cls: what a recipe becomes.
        mark: a field that recipes of this kind have and those of other kinds have not.
        package: the folder ``recipes`` of this package holds those that come with jaxmodels.
        parts: of each dataclass, the fields that JSON has as objects, and what they become.
    """

    cls: type[T]
    mark: str
    package: str
    parts: Mapping[type, Mapping[str, Part]] = field(default_factory=dict)

    def from_dict(self, values: Mapping[str, Any]) -> T:
        """A recipe from parsed JSON.

        Raises:
            ValueError: a key is unknown or missing, or a value cannot be meant; the message names it.
        """
        made = self._build(self.cls, values, "recipe")
        assert isinstance(made, self.cls)
        return made

    def to_dict(self, recipe: T) -> dict[str, Any]:
        """The inverse of `from_dict`: values that JSON can hold."""
        return self._written(recipe)

    def load(self, name_or_path: str | Path) -> T:
        """Reads a recipe file, or one of those that come with the package by its name.

        Raises:
            FileNotFoundError: it is neither; the message lists the names.
            ValueError: the file is not JSON, or not a recipe.
        """
        path = Path(name_or_path)
        if not path.is_file():
            if str(name_or_path) not in self.names():
                raise FileNotFoundError(
                    f"{str(name_or_path)!r} is neither a recipe file nor one of the recipes of the package: "
                    f"{', '.join(self.names())}"
                )
            path = Path(str(resources.files(self.package) / "recipes" / f"{name_or_path}.json"))
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{str(path)!r} is not JSON: {error}") from error
        return self.from_dict(values)

    def save(self, recipe: T, path: str | Path) -> None:
        """Writes a file that `load` reads."""
        replace_file(Path(path), json.dumps(self.to_dict(recipe), indent=2) + "\n")

    def names(self) -> list[str]:
        """Names of the recipes that come with the package."""
        files = (resources.files(self.package) / "recipes").iterdir()
        return sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json"))

    def recognises(self, name_or_path: str | Path) -> bool:
        """Whether a name or a file is a recipe of this kind, right or wrong."""
        path = Path(name_or_path)
        if not path.is_file():
            return str(name_or_path) in self.names()
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError):
            return False  # a recipe of another kind is looked for, and the fault told
        return isinstance(values, dict) and self.mark in values

    def _build(self, cls: type, values: Any, where: str) -> Any:
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
        parts = self.parts.get(cls, {})
        built = {
            key: self._part(parts[key], value, f"{where}: {key}") if key in parts else value
            for key, value in values.items()
        }
        try:
            return cls(**built)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{where}: {error}") from error

    def _part(self, part: Part, value: Any, where: str) -> Any:
        if isinstance(part, type):
            return self._build(part, value, where)
        if not isinstance(value, Mapping):
            raise ValueError(f"{where} must be an object, got {shown(value)}")
        fields = dict(value)
        kind = fields.pop("kind", None)
        if not isinstance(kind, str) or kind not in part:
            raise ValueError(f"{where}: kind must be one of {', '.join(part)}, got {shown(kind)}")
        return self._build(part[kind], fields, where)

    def _written(self, value: Any) -> Any:
        if isinstance(value, Mapping):
            return dict(value)
        if isinstance(value, type) or not dataclasses.is_dataclass(value):
            return value
        parts, written = self.parts.get(type(value), {}), {}
        for f in dataclasses.fields(value):
            part, held = parts.get(f.name), getattr(value, f.name)
            written[f.name] = self._written(held)
            if isinstance(part, Mapping):
                (kind,) = [kind for kind, cls in part.items() if type(held) is cls]
                written[f.name] = {"kind": kind, **written[f.name]}
        return written
