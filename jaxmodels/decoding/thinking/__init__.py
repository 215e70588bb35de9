"""When to stop thinking: policies that watch the segment in which a model thinks, and their calibration."""

from jaxmodels.decoding.thinking.calibration import conformal_threshold, premature_scores, trace_thinking
from jaxmodels.decoding.thinking.delimiters import Delimiters
from jaxmodels.decoding.thinking.moments import AtTokens, EveryTokens, Moments
from jaxmodels.decoding.thinking.path_deviation import PathDeviation
from jaxmodels.decoding.thinking.policy import ThinkingPolicy, Thought
from jaxmodels.decoding.thinking.probe import Probe
from jaxmodels.decoding.thinking.token_budget import TokenBudget

__all__ = [
    "AtTokens",
    "Delimiters",
    "EveryTokens",
    "Moments",
    "PathDeviation",
    "Probe",
    "ThinkingPolicy",
    "Thought",
    "TokenBudget",
    "conformal_threshold",
    "premature_scores",
    "trace_thinking",
]
