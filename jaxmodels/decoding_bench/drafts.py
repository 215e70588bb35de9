"""What is bundled to draft for bundled models."""

from collections.abc import Mapping
from typing import Any

import jaxmodels as jm
from jaxmodels.checkpoints.draft_heads import is_drafter, load_drafter
from jaxmodels.checkpoints.hub import list_bundled_drafters
from jaxmodels.io import as_language_model
from jaxmodels.models.language_model import LanguageModel

# By model: names of models that draft for it, beside the heads that are called after it.
BUNDLED_MODELS: Mapping[str, tuple[str, ...]] = {
    "tiny-qwen3": ("tiny-qwen3-draft", "tiny-mamba2"),
    "tiny-mamba2": ("tiny-qwen3",),
}


def bundled_drafts(model: str) -> tuple[str, ...]:
    """Names of what is bundled to draft for the model of this name; none for others."""
    heads = tuple(name for name in list_bundled_drafters() if name.startswith(f"{model}-"))
    return (*BUNDLED_MODELS.get(model, ()), *heads)


def load_draft(name: str, target: LanguageModel) -> Any:
    """What `Speculative` takes as a draft for `target`, a model or a drafter, loaded by name.

    Raises:
        ValueError: it is a head for another target, no language model, or one of another vocabulary.
    """
    if is_drafter(name):
        return load_drafter(name, target)
    draft = as_language_model(jm.load(name), name)
    if draft.config.vocab_size != target.vocab_size:
        raise ValueError(
            f"draft {name!r}: its vocabulary has {draft.config.vocab_size} tokens and the model's "
            f"{target.vocab_size}; they must be the same"
        )
    return draft
