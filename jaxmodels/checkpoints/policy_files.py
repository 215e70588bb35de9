"""Policies with trained parameters as directories: ``config.json`` and safetensors.

Research code publishes such parts inside whole models, if at all, so that the form is this library's own.
Every field of a policy is either a tensor, named by its path, or a value of JSON; a policy within a policy,
such as the confidence of an exit, is an object of its own, and so are the parts of a tree of parameters.
"""

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxmodels.checkpoints.arguments import check_path, default_dtype
from jaxmodels.checkpoints.atomic import replace_directory
from jaxmodels.checkpoints.consistent import read_consistently
from jaxmodels.checkpoints.errors import CheckpointError, told_of
from jaxmodels.checkpoints.files import mode_of, read_json_object
from jaxmodels.checkpoints.hub import resolve
from jaxmodels.checkpoints.huggingface import CONFIG_FILE, write_config
from jaxmodels.checkpoints.safetensors_io import TensorReader, TensorToWrite, open_tensors, write_tensors
from jaxmodels.checks import shown
from jaxmodels.models.decoder import Decoder

_MODEL = "model"


@dataclass(frozen=True, kw_only=True)
class PolicyFiles:
    """How policies of one sort are written and read.

    Attributes:
        key: of ``config.json``, which says that a directory holds such a policy.
        what: the sort in words.
        kinds: the policies that can be written, and what they are made of; in a configuration by these names.
    """

    key: str
    what: str
    kinds: Mapping[str, type]

    def load(self, name_or_path: str | Path, model: Any) -> Any:
        """Reads a policy. Raises CheckpointError and ValueError as `load_depth` does."""
        check_path("name_or_path", name_or_path)
        directory = resolve(name_or_path)

        def read() -> Any:
            file = directory / CONFIG_FILE
            values = read_json_object(file)
            if self.key not in values:
                raise CheckpointError(f"{file} describes no {self.what}: it has no {self.key}")
            _check_model(values.get(_MODEL), model, file)
            return _read(values[self.key], open_tensors(directory), f"{file}: {self.key}", self.kinds)

        with told_of(directory):
            return read_consistently(directory, read)

    def save(self, policy: Any, path: str | Path, model: Any) -> None:
        """Writes a policy. Raises CheckpointError and ValueError as `save_depth` does."""
        check_path("path", path)
        tensors: dict[str, np.ndarray] = {}
        written = _written(policy, "policy", tensors, self.kinds)
        values = {self.key: written, _MODEL: _sizes(_decoder_of(model))}
        with replace_directory(path) as directory:
            write_config(values, directory)
            write_tensors(directory, _to_write(tensors))

    def holds(self, name_or_path: str | Path) -> bool:
        """Whether a name is that of such a policy. Raises CheckpointError where there is nothing."""
        directory = resolve(name_or_path)
        file = directory / CONFIG_FILE
        return not directory.is_file() and bool(mode_of(file)) and self.key in read_json_object(file)


def _written(part: Any, where: str, tensors: dict[str, np.ndarray], kinds: Mapping[str, type]) -> Any:
    """The JSON form of a policy or of one of its values, whose arrays go to `tensors`."""
    if isinstance(part, jax.Array | np.ndarray):
        if not np.ndim(part):
            return np.asarray(part).item()
        tensors[where] = np.asarray(part)
        return {"tensor": where}
    if isinstance(part, Mapping):
        return {
            "parts": {name: _written(one, f"{where}.{name}", tensors, kinds) for name, one in part.items()}
        }
    if isinstance(part, tuple | list):
        return [_written(one, f"{where}.{i}", tensors, kinds) for i, one in enumerate(part)]
    if not dataclasses.is_dataclass(part):
        return part
    kind = next((name for name, cls in kinds.items() if type(part) is cls), None)
    if kind is None:
        raise ValueError(f"{where} must be one of {', '.join(kinds)}, got {shown(part)}")
    names = [field.name for field in dataclasses.fields(part)]
    return {"kind": kind} | {
        name: _written(getattr(part, name), f"{where}.{name}", tensors, kinds) for name in names
    }


def _read(value: Any, tensors: TensorReader, where: str, kinds: Mapping[str, type]) -> Any:
    """The inverse of `_written`."""
    if isinstance(value, list):
        return tuple(_read(one, tensors, f"{where}.{i}", kinds) for i, one in enumerate(value))
    if not isinstance(value, Mapping):
        return value
    if set(value) == {"tensor"}:
        return _held(tensors.read(value["tensor"]))
    if set(value) == {"parts"} and isinstance(value["parts"], Mapping):
        return {name: _read(one, tensors, f"{where}.{name}", kinds) for name, one in value["parts"].items()}
    kind = value.get("kind")
    if not isinstance(kind, str) or kind not in kinds:
        raise CheckpointError(f"{where}: kind must be one of {', '.join(kinds)}, got {shown(kind)}")
    cls = kinds[kind]
    known = {field.name: field for field in dataclasses.fields(cls)}
    unknown = [name for name in value if name not in (*known, "kind")]
    missing = [name for name, field in known.items() if name not in value and _is_needed(field)]
    if unknown or missing:
        what = f"has no field {unknown[0]!r}" if unknown else f"lacks {missing[0]!r}"
        raise CheckpointError(f"{where}: {kind} {what}; its fields are {', '.join(known)}")
    given = {name: _read(value[name], tensors, f"{where}.{name}", kinds) for name in known if name in value}
    try:
        return cls(**given)
    except ValueError as error:
        raise CheckpointError(f"{where}: {error}") from error


def _held(array: np.ndarray) -> jax.Array:
    """An array as models hold theirs: numbers of few bits as the processor computes with best."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return jnp.asarray(array)
    return jnp.asarray(array, default_dtype(array.dtype.name))


def _is_needed(field: "dataclasses.Field[Any]") -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _to_write(tensors: Mapping[str, np.ndarray]) -> Iterator[TensorToWrite]:
    for name, array in tensors.items():
        yield TensorToWrite(name=name, shape=array.shape, dtype=array.dtype, read=partial(np.asarray, array))


def _decoder_of(model: Any) -> Decoder:
    config = getattr(model, "decoder", getattr(model, "config", model))
    if not isinstance(config, Decoder):
        raise ValueError(f"model must be one that is made of blocks, as load gives, got {shown(model)}")
    return config


def _sizes(config: Decoder) -> dict[str, int]:
    return {"blocks": len(config.blocks), "d_model": config.d_model, "vocab_size": config.vocab_size}


def _check_model(trained_for: Any, model: Any, file: Path) -> None:
    """Raises CheckpointError where a policy is for a model of other sizes."""
    if model is None:
        return
    sizes = _sizes(_decoder_of(model))
    if trained_for != sizes:
        raise CheckpointError(
            f"{file}: the policy was trained for a model of {shown(trained_for)}, and this one has {sizes}"
        )
