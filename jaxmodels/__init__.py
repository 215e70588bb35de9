"""jaxmodels: a compiler-first JAX/XLA model zoo.

import jaxmodels as jm
model = jm.load("tiny-mamba2")
print(model.generate("def fibonacci(n):", max_new_tokens=32).text[0])
"""

from jaxmodels import checkpoints, decoding
from jaxmodels.checkpoints import CheckpointError, list_bundled
from jaxmodels.io import init, load, save
from jaxmodels.model import Generation, Model, Stats
from jaxmodels.models.families import config_from_hf, config_to_hf, list_families
from jaxmodels.models.hf_config import ConfigError

__version__ = "0.1.0"

__all__ = [
    "CheckpointError",
    "ConfigError",
    "Generation",
    "Model",
    "Stats",
    "checkpoints",
    "config_from_hf",
    "config_to_hf",
    "decoding",
    "init",
    "list_bundled",
    "list_families",
    "load",
    "save",
]
