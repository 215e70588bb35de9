"""Policies of depth: which blocks a token is read in, see `jaxmodels.models.depth`."""

from jaxmodels.decoding.depth.budget import Budget, linear_budget
from jaxmodels.decoding.depth.calibration import (
    Trace,
    threshold_for_agreement,
    thresholds_for_budget,
    trace_exits,
)
from jaxmodels.decoding.depth.confidence import (
    AmongTokens,
    CandidateConfidence,
    Certainty,
    Confidence,
    Following,
    LinearConfidence,
    MaxProbability,
    MLPConfidence,
    Passed,
    Patience,
    ProbabilityGap,
    Recalling,
    RecurrentConfidence,
    Similarity,
)
from jaxmodels.decoding.depth.duo import ChosenFeedForwards, RoutedFeedForwards, SmallFeedForwards
from jaxmodels.decoding.depth.duo_oracle import best_feed_forwards
from jaxmodels.decoding.depth.informed_routing import InformedRouting
from jaxmodels.decoding.depth.layer_skipping import layers_for_speed_up, speed_up_of
from jaxmodels.decoding.depth.lora_drop import LoRADrop
from jaxmodels.decoding.depth.mind_skip import MindSkip
from jaxmodels.decoding.depth.plans import Plan, RowPlans
from jaxmodels.decoding.depth.prompt_router import PromptRouter
from jaxmodels.decoding.depth.recursions import ExpertChoiceRecursions, TokenChoiceRecursions
from jaxmodels.decoding.depth.thresholds import Decaying, PerBlock, PerPosition, PerRow, Thresholds
from jaxmodels.decoding.depth.until_confident import UntilConfident

__all__ = [
    "AmongTokens",
    "Budget",
    "CandidateConfidence",
    "Certainty",
    "ChosenFeedForwards",
    "Confidence",
    "Decaying",
    "ExpertChoiceRecursions",
    "Following",
    "InformedRouting",
    "LinearConfidence",
    "LoRADrop",
    "MLPConfidence",
    "MaxProbability",
    "MindSkip",
    "Passed",
    "Patience",
    "PerBlock",
    "PerPosition",
    "PerRow",
    "Plan",
    "ProbabilityGap",
    "PromptRouter",
    "Recalling",
    "RecurrentConfidence",
    "RoutedFeedForwards",
    "RowPlans",
    "Similarity",
    "SmallFeedForwards",
    "Thresholds",
    "TokenChoiceRecursions",
    "Trace",
    "UntilConfident",
    "best_feed_forwards",
    "layers_for_speed_up",
    "linear_budget",
    "speed_up_of",
    "threshold_for_agreement",
    "thresholds_for_budget",
    "trace_exits",
]
