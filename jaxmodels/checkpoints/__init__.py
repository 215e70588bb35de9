"""Checkpoints: Hugging Face directories and Orbax, both ways, and tokenizers."""

from jaxmodels.checkpoints.errors import CheckpointError
from jaxmodels.checkpoints.generation_config import GenerationDefaults
from jaxmodels.checkpoints.hub import list_bundled, list_bundled_drafters, list_bundled_thinking
from jaxmodels.checkpoints.tokenizer import Tokenizer

__all__ = [
    "CheckpointError",
    "GenerationDefaults",
    "Tokenizer",
    "list_bundled",
    "list_bundled_drafters",
    "list_bundled_thinking",
]
