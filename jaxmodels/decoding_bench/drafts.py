"""What is bundled to draft for bundled models."""

from collections.abc import Mapping
from typing import Any

import jaxmodels as jm

# By model: names of models and heads that draft for it.
BUNDLED: Mapping[str, tuple[str, ...]] = {"tiny-qwen3": ("tiny-mamba2",), "tiny-mamba2": ("tiny-qwen3",)}


def bundled_drafts(model: str) -> tuple[str, ...]:
    """Names of what is bundled to draft for the model of this name; none for others."""
    return BUNDLED.get(model, ())


def load_draft(name: str) -> Any:
    """What `Speculative` takes as a draft, loaded by name."""
    return jm.load(name)
