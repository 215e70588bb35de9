"""Draft lengths: how many tokens are drafted in a round, as data; the drafter's `size` is the bound."""

from jaxmodels.decoding.lengths.budget import Budget
from jaxmodels.decoding.lengths.confident import Confident
from jaxmodels.decoding.lengths.grow_shrink import GrowShrink
from jaxmodels.decoding.lengths.length import DraftLength
from jaxmodels.decoding.lengths.mean_accepted import MeanAccepted
from jaxmodels.decoding.lengths.predicted_acceptance import PredictedAcceptance
from jaxmodels.decoding.lengths.whole import Whole

__all__ = [
    "Budget",
    "Confident",
    "DraftLength",
    "GrowShrink",
    "MeanAccepted",
    "PredictedAcceptance",
    "Whole",
]
