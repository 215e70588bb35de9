"""Rules of remasking: edits of tokens that are known, see `jaxmodels.decoding.masked.seen.Remask`."""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels.decoding.masked.remask.joint_threshold import JointThreshold
    from jaxmodels.decoding.masked.remask.levenshtein import LevenshteinEdits
    from jaxmodels.decoding.masked.remask.renoise import Renoise
    from jaxmodels.decoding.masked.remask.token_edits import TokenEdits

__all__ = ["JointThreshold", "LevenshteinEdits", "Renoise", "TokenEdits"]

_HOMES = {
    "joint_threshold": ("JointThreshold",),
    "levenshtein": ("LevenshteinEdits",),
    "renoise": ("Renoise",),
    "token_edits": ("TokenEdits",),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
