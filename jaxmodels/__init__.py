"""jaxmodels: a compiler-first JAX/XLA model zoo.

import jaxmodels as jm
model = jm.load("tiny-mamba2")
print(model.generate("def fibonacci(n):", max_new_tokens=32).text[0])
"""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels import checkpoints, decoding
    from jaxmodels.checkpoints import (
        CheckpointError,
        list_bundled,
        list_bundled_drafters,
        list_bundled_thinking,
    )
    from jaxmodels.checkpoints.depth_policies import load_depth, save_depth
    from jaxmodels.checkpoints.draft_heads import (
        load_draft_length,
        load_drafter,
        save_draft_length,
        save_drafter,
    )
    from jaxmodels.checkpoints.thinking_policies import load_thinking, save_thinking
    from jaxmodels.decoding.generation import Piece
    from jaxmodels.generated import Generation, Stats
    from jaxmodels.image_models.images import ImageModel, Images
    from jaxmodels.io import init, load, save
    from jaxmodels.layers.moe.kept_experts import HostExperts
    from jaxmodels.model import Model
    from jaxmodels.models.families import config_from_hf, config_to_hf, list_families
    from jaxmodels.models.hf_config import ConfigError, ConfigWarning

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "ConfigWarning",
    "Generation",
    "HostExperts",
    "ImageModel",
    "Images",
    "Model",
    "Piece",
    "Stats",
    "checkpoints",
    "config_from_hf",
    "config_to_hf",
    "decoding",
    "init",
    "list_bundled",
    "list_bundled_drafters",
    "list_bundled_thinking",
    "list_families",
    "load",
    "load_depth",
    "load_draft_length",
    "load_drafter",
    "load_thinking",
    "save",
    "save_depth",
    "save_draft_length",
    "save_drafter",
    "save_thinking",
]

# Imported on first use: JAX takes more than a second, which `jaxmodels --help` has no need of.
_HOMES = {
    "checkpoints": (
        "CheckpointError",
        "list_bundled",
        "list_bundled_drafters",
        "list_bundled_thinking",
    ),
    "checkpoints.depth_policies": ("load_depth", "save_depth"),
    "checkpoints.draft_heads": (
        "load_draft_length",
        "load_drafter",
        "save_draft_length",
        "save_drafter",
    ),
    "checkpoints.thinking_policies": ("load_thinking", "save_thinking"),
    "decoding.generation": ("Piece",),
    "image_models.images": ("ImageModel", "Images"),
    "io": ("init", "load", "save"),
    "generated": ("Generation", "Stats"),
    "layers.moe.kept_experts": ("HostExperts",),
    "model": ("Model",),
    "models.families": ("config_from_hf", "config_to_hf", "list_families"),
    "models.hf_config": ("ConfigError", "ConfigWarning"),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES, packages=("checkpoints", "decoding"))
