"""Acceptance rules: which of a draft's tokens become output, and what follows them.

A rule is a function from probabilities to probabilities, without randomness of its own. For a chain or tree
of G drafted tokens it gives the joint distribution of its outcomes "the tokens on the path to window token n
are accepted and v comes after them". A draw from it is a step of speculative decoding; summed over all drafts
it must be what the model itself would have said, which tests check by enumeration. `TypicalAcceptance` is the
one rule that is lossy.
"""

from jaxmodels.decoding.acceptance.acceptance import Acceptance
from jaxmodels.decoding.acceptance.agreement import longest_agreement
from jaxmodels.decoding.acceptance.blocks import BlockVerification
from jaxmodels.decoding.acceptance.drawing import draw
from jaxmodels.decoding.acceptance.multi_path import MultiPathVerification
from jaxmodels.decoding.acceptance.sampled_child import SampledChild
from jaxmodels.decoding.acceptance.tokens import TokenVerification
from jaxmodels.decoding.acceptance.traversal import TraversalVerification
from jaxmodels.decoding.acceptance.typical import TypicalAcceptance

__all__ = [
    "Acceptance",
    "BlockVerification",
    "MultiPathVerification",
    "SampledChild",
    "TokenVerification",
    "TraversalVerification",
    "TypicalAcceptance",
    "draw",
    "longest_agreement",
]
