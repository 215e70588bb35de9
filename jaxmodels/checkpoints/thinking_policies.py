"""Policies that leave thinking, with their trained parameters, as directories."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxmodels.checkpoints.policy_files import PolicyFiles
from jaxmodels.decoding import thinking

# The policies that can be written, and what they are made of; in a configuration by these names.
KINDS: Mapping[str, type] = {
    "at_tokens": thinking.AtTokens,
    "every_tokens": thinking.EveryTokens,
    "path_deviation": thinking.PathDeviation,
    "probe": thinking.Probe,
    "token_budget": thinking.TokenBudget,
}
_FILES = PolicyFiles(key="thinking_policy", what="policy of thinking", kinds=KINDS)


def load_thinking(name_or_path: str | Path, model: Any = None) -> Any:
    """Reads a policy that `save_thinking` wrote, for ``ThinkingExit(policy=...)``.

    Args:
        name_or_path: a directory, or a bundled name (`list_bundled_thinking`).
        model: the model, or its configuration, that is to be watched, with which the sizes of the one it was
            trained for are compared.

    Raises:
        CheckpointError: anything missing, corrupt or not understood; a policy for another model.
        ValueError: an argument of a wrong kind.
    """
    return _FILES.load(name_or_path, model)


def save_thinking(policy: thinking.ThinkingPolicy, path: str | Path, model: Any) -> None:
    """Writes a policy as a directory that `load_thinking` reads, in the place of any other directory there.

    Args:
        policy: one of `KINDS`, with parts of those kinds.
        path: the directory.
        model: the model that it was trained for, or its configuration; its sizes are written beside it.

    Raises:
        CheckpointError: the directory cannot be written.
        ValueError: a policy, or a part of one, of another kind.
    """
    _FILES.save(policy, path, model)
