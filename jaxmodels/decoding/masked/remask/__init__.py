"""Rules of remasking: edits of tokens that are known, see `jaxmodels.decoding.masked.seen.Remask`."""

from jaxmodels.decoding.masked.remask.joint_threshold import JointThreshold
from jaxmodels.decoding.masked.remask.levenshtein import LevenshteinEdits
from jaxmodels.decoding.masked.remask.renoise import Renoise
from jaxmodels.decoding.masked.remask.token_edits import TokenEdits

__all__ = ["JointThreshold", "LevenshteinEdits", "Renoise", "TokenEdits"]
