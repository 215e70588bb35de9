"""Models of several components, each in a folder of its own, as `diffusers` lays them out.

``model_index.json`` names the class of the whole and of each component; null is a component left out:

    {"_class_name": "DiTPipeline",
     "scheduler": ["diffusers", "DDIMScheduler"],
     "transformer": ["diffusers", "DiTTransformer2DModel"],
     "vae": ["diffusers", "AutoencoderKL"]}

Which pipelines there are, and of what, is in `jaxmodels.image_models.pipelines`.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from jaxmodels.checkpoints.atomic import replace_directory, replace_file
from jaxmodels.checkpoints.components import Component, Reading, Writing
from jaxmodels.checkpoints.errors import CheckpointError, told_of
from jaxmodels.checkpoints.files import read_json_object
from jaxmodels.checkpoints.manifest import write_manifest
from jaxmodels.checkpoints.pipeline_index import INDEX_FILE
from jaxmodels.checks import shown

# In place of the library and the class of a component that is left out.
_LEFT_OUT = [None, None]


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What a pipeline is made of.

    Attributes:
        components: what each folder or file holds, by its name; None for one that is left out.
        notes: the other keys of the index, which are written back.
    """

    components: Mapping[str, Any]
    notes: Mapping[str, Any] = field(default_factory=dict)


class PipelineModel(Protocol):
    """A model of several components."""

    @property
    def pipeline(self) -> str:
        """The class that its index names."""


@dataclass(frozen=True, kw_only=True)
class Pipeline:
    """One class of pipelines: what it consists of, and the model that this makes.

    Attributes:
        name: the class that the index names.
        components: by their folder.
        optional: those that may be left out.
        beside: files that the index does not name, any of which may be missing.
        unused: folders that are left out of the model: what is in them is neither read nor written.
        build: the model of the parts; raises ValueError where they do not fit each other.
        take_apart: the parts of a model that `build` made.
    """

    name: str
    components: Mapping[str, Component]
    optional: frozenset[str] = frozenset()
    beside: Mapping[str, Component] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()
    build: Callable[[Parts], Any]
    take_apart: Callable[[Any], Parts]


def read_pipeline(pipelines: Mapping[str, Pipeline], directory: Path, reading: Reading) -> Any:
    """The model of a directory.

    Raises:
        CheckpointError: the index names no known pipeline, lacks a component or names one that is unknown; a
            folder is missing; what a component's reader raises.
    """
    return _built(pipelines, directory, lambda component, folder: component.read(folder, reading))


def outline_pipeline(pipelines: Mapping[str, Pipeline], directory: Path) -> tuple[Any, Parts]:
    """The model of a directory without its parameters, whose files are not read, and its parts.

    Raises:
        CheckpointError: as `read_pipeline`, but for the parameters.
    """
    model = _built(pipelines, directory, lambda component, folder: component.outline(folder))
    return model, pipelines[model.pipeline].take_apart(model)


def _built(pipelines: Mapping[str, Pipeline], directory: Path, read: Callable[[Component, Path], Any]) -> Any:
    file = directory / INDEX_FILE
    index = read_json_object(file)
    pipeline = _named(pipelines, index.get("_class_name"), f"{file}: key '_class_name'")
    present = _check_components(pipeline, index, directory)
    components = {
        folder: read(component, directory / folder) if folder in present else None
        for folder, component in pipeline.components.items()
    }
    for name, component in pipeline.beside.items():
        components[name] = read(component, directory / name) if (directory / name).exists() else None
    notes = {key: value for key, value in index.items() if key not in components}
    notes |= dict.fromkeys(pipeline.unused & notes.keys(), _LEFT_OUT)
    with told_of(directory):
        return pipeline.build(Parts(components=components, notes=notes))


def write_pipeline(
    pipelines: Mapping[str, Pipeline], model: PipelineModel, path: str | Path, writing: Writing
) -> None:
    """Writes a model as a directory that `read_pipeline` and `diffusers` read, in place of any other.

    Raises:
        CheckpointError: the model's pipeline is not known, a component has no such form, or the directory
            cannot be written.
    """
    pipeline = _named(pipelines, model.pipeline, "pipeline of the model")
    parts = pipeline.take_apart(model)
    folders = {name for known in pipelines.values() for name in (*known.components, *known.beside)}
    with replace_directory(path, (INDEX_FILE, *folders)) as directory:
        index: dict[str, Any] = {**parts.notes, "_class_name": pipeline.name}
        for folder, component in pipeline.components.items():
            part = parts.components[folder]
            index[folder] = _LEFT_OUT if part is None else list(component.name(part))
            if part is not None:
                component.write(part, directory / folder, writing)
        for name, component in pipeline.beside.items():
            if parts.components[name] is not None:
                component.write(parts.components[name], directory / name, writing)
        replace_file(directory / INDEX_FILE, json.dumps(index, indent=2, sort_keys=True) + "\n")
        write_manifest(directory)


def _named(pipelines: Mapping[str, Pipeline], name: object, where: str) -> Pipeline:
    if not isinstance(name, str) or name not in pipelines:
        raise CheckpointError(
            f"{where} is {shown(name)}; the pipelines are: {', '.join(sorted(pipelines))}. Single components "
            "of others may be readable, see jaxmodels.checkpoints.diffusers"
        )
    return pipelines[name]


def _check_components(pipeline: Pipeline, index: Mapping[str, Any], directory: Path) -> frozenset[str]:
    """The components that are there; raises `CheckpointError` where one is missing or is not known."""
    file, present = directory / INDEX_FILE, set()
    for folder in pipeline.components:
        named = index.get(folder, _LEFT_OUT)
        if named == _LEFT_OUT and folder in pipeline.optional:
            continue
        if not _is_class(named):
            raise CheckpointError(
                f"{file}: key {folder!r} is {shown(index.get(folder))}; a {pipeline.name} needs the "
                f"library and the class of its {folder}"
            )
        if not (directory / folder).is_dir():
            raise CheckpointError(
                f"{directory}: the folder {folder!r} is missing, which {INDEX_FILE} names as a {named[1]}"
            )
        present.add(folder)
    for key, value in index.items():
        if _is_class(value) and key not in pipeline.components and key not in pipeline.unused:
            raise CheckpointError(
                f"{file}: key {key!r} names a component, {shown(value)}, that a {pipeline.name} does not "
                f"have; it has: {', '.join(pipeline.components)}"
            )
    return frozenset(present)


def _is_class(value: Any) -> bool:
    """Whether it is a library and a class, as an index names components."""
    return isinstance(value, list) and len(value) == 2 and all(isinstance(one, str) for one in value)
