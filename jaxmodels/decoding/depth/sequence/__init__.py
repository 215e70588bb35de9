"""Exits of whole sequences: a classifier behind several blocks, and a gate that says which one answers."""

from jaxmodels.decoding.depth.sequence.calibrated import (
    ScoreExit,
    WindowExit,
    budgeted_exit,
    uncertainty_window,
)
from jaxmodels.decoding.depth.sequence.classifier import (
    AtExit,
    Classified,
    ExitHeads,
    Gate,
    classify,
    exit_features,
)
from jaxmodels.decoding.depth.sequence.gates import LearnedGate, QExit

__all__ = [
    "AtExit",
    "Classified",
    "ExitHeads",
    "Gate",
    "LearnedGate",
    "QExit",
    "ScoreExit",
    "WindowExit",
    "budgeted_exit",
    "classify",
    "exit_features",
    "uncertainty_window",
]
