"""Policies of depth: which blocks a token is read in, see `jaxmodels.models.depth`."""

from jaxmodels.decoding.depth.budget import Budget, linear_budget
from jaxmodels.decoding.depth.confidence import (
    Confidence,
    LinearConfidence,
    MaxProbability,
    Passed,
    ProbabilityGap,
    Similarity,
)
from jaxmodels.decoding.depth.layer_skipping import layers_for_speed_up, speed_up_of
from jaxmodels.decoding.depth.lora_drop import LoRADrop
from jaxmodels.decoding.depth.plans import Plan, RowPlans
from jaxmodels.decoding.depth.until_confident import UntilConfident

__all__ = [
    "Budget",
    "Confidence",
    "LinearConfidence",
    "LoRADrop",
    "MaxProbability",
    "Passed",
    "Plan",
    "ProbabilityGap",
    "RowPlans",
    "Similarity",
    "UntilConfident",
    "layers_for_speed_up",
    "linear_budget",
    "speed_up_of",
]
