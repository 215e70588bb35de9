"""Calibrations of a model's caches, beside the model in a small JSON file."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxmodels.checks import shown

FILE = "step_caches.json"
# Of each calibration, by the name of its cache: what it is, and how many axes it has.
CALIBRATIONS: Mapping[str, tuple[str, int]] = {
    "magcache": ("a ratio > 0 for each step", 1),
    "harmonica": ("a logit for each step and part of a block", 2),
    "encoder-sharing": ("true or false for each step", 1),
}


def read_calibrations(directory: str | Path) -> dict[str, np.ndarray]:
    """The calibrations in a model's directory, by the names of their caches; none where it has no such file.

    Raises:
        ValueError: the file is no such one, or a calibration is not what its cache goes by.
    """
    path = Path(directory) / FILE
    if not path.is_file():
        return {}
    try:
        given = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path}: not JSON: {error}") from error
    if not isinstance(given, dict):
        raise ValueError(f"{path}: expected an object of calibrations, got {shown(given)}")
    return {name: _checked(f"{path}: {name!r}", name, value) for name, value in given.items()}


def write_calibrations(directory: str | Path, calibrations: Mapping[str, Any]) -> None:
    """Writes calibrations into a model's directory, in place of those that it has of the same names.

    Raises:
        ValueError: a calibration is not what its cache goes by, or the directory's file is no such one.
    """
    named = {name: _checked(f"calibration {name!r}", name, value) for name, value in calibrations.items()}
    every = read_calibrations(directory) | named
    # As few digits as say the same float32.
    texts = {
        name: json.dumps(values.tolist()) if values.dtype.kind == "b" else _floats(values)
        for name, values in every.items()
    }
    lines = ",\n".join(f"  {json.dumps(name)}: {text}" for name, text in sorted(texts.items()))
    (Path(directory) / FILE).write_text(f"{{\n{lines}\n}}\n")


def _floats(values: np.ndarray) -> str:
    if values.ndim > 1:
        return f"[{', '.join(map(_floats, values))}]"
    return f"[{', '.join(str(value) for value in values)}]"


def _checked(where: str, name: str, value: Any) -> np.ndarray:
    if name not in CALIBRATIONS:
        raise ValueError(f"{where} is no calibration; there are {', '.join(CALIBRATIONS)}")
    what, axes = CALIBRATIONS[name]
    try:
        array = np.asarray(value)
    except ValueError:  # rows of different lengths
        array = np.empty(0)
    kinds = "b" if name == "encoder-sharing" else "fiu"
    if array.ndim != axes or not array.size or array.dtype.kind not in kinds or not np.isfinite(array).all():
        raise ValueError(f"{where} must be {what}, got {shown(value)}")
    return array if kinds == "b" else array.astype(np.float32)
