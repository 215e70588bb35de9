"""Policies of depth with their trained parameters, as directories."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxmodels.checkpoints.policy_files import PolicyFiles
from jaxmodels.decoding import depth
from jaxmodels.models.depth import Depth

# The policies that can be written, and what they are made of; in a configuration by these names.
KINDS: Mapping[str, type] = {
    "among_tokens": depth.AmongTokens,
    "budget": depth.Budget,
    "candidate_confidence": depth.CandidateConfidence,
    "certainty": depth.Certainty,
    "decaying": depth.Decaying,
    "expert_choice_recursions": depth.ExpertChoiceRecursions,
    "informed_routing": depth.InformedRouting,
    "linear_confidence": depth.LinearConfidence,
    "lora_drop": depth.LoRADrop,
    "max_probability": depth.MaxProbability,
    "mlp_confidence": depth.MLPConfidence,
    "patience": depth.Patience,
    "per_block": depth.PerBlock,
    "per_position": depth.PerPosition,
    "mind_skip": depth.MindSkip,
    "plan": depth.Plan,
    "probability_gap": depth.ProbabilityGap,
    "prompt_router": depth.PromptRouter,
    "recurrent_confidence": depth.RecurrentConfidence,
    "routed_feed_forwards": depth.RoutedFeedForwards,
    "row_plans": depth.RowPlans,
    "small_feed_forwards": depth.SmallFeedForwards,
    "similarity": depth.Similarity,
    "token_choice_recursions": depth.TokenChoiceRecursions,
    "until_confident": depth.UntilConfident,
}
_FILES = PolicyFiles(key="depth_policy", what="policy of depth", kinds=KINDS)


def load_depth(name_or_path: str | Path, model: Any = None) -> Any:
    """Reads a policy of depth that `save_depth` wrote, for ``AdaptiveDepth(depth=...)``.

    Args:
        name_or_path: a directory, or a bundled name.
        model: the model, or its configuration, that is to be read by it, with which the sizes of the one it
            was trained for are compared.

    Raises:
        CheckpointError: anything missing, corrupt or not understood; a policy for another model.
        ValueError: an argument of a wrong kind.
    """
    return _FILES.load(name_or_path, model)


def save_depth(policy: Depth, path: str | Path, model: Any) -> None:
    """Writes a policy as a directory that `load_depth` reads, in the place of any other directory there.

    Args:
        policy: one of `KINDS`, with parts of those kinds.
        path: the directory.
        model: the model that it was trained for, or its configuration; its sizes are written beside it.

    Raises:
        CheckpointError: the directory cannot be written.
        ValueError: a policy, or a part of one, of another kind.
    """
    _FILES.save(policy, path, model)


def is_depth(name_or_path: str | Path) -> bool:
    """Whether a name is that of a written policy of depth. Raises CheckpointError where there is nothing."""
    return _FILES.holds(name_or_path)
