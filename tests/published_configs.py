"""The configurations under tests/published, as public repositories hold them."""

import json
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

DIRECTORY = Path(__file__).parent / "published"
NAMES = tuple(sorted(file.stem for file in DIRECTORY.glob("*.json")))


@cache
def _text(name: str) -> str:
    return (DIRECTORY / f"{name}.json").read_text("utf-8")


def published(name: str) -> dict[str, Any]:
    """The configuration of this name, but for how the weights are stored."""
    values = json.loads(_text(name))
    values.pop("quantization_config", None)
    return values


def model_type(name: str) -> str:
    """The `model_type` of the configuration of this name."""
    return str(json.loads(_text(name))["model_type"])


def without(values: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    """A configuration without some keys."""
    return {key: value for key, value in values.items() if key not in keys}
