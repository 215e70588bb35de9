"""How sure a model is of each token behind a block: what early exits go by, a file for each kind."""

from jaxmodels.decoding.depth.confidence.among_tokens import AmongTokens
from jaxmodels.decoding.depth.confidence.candidates import CandidateConfidence
from jaxmodels.decoding.depth.confidence.classifiers import LinearConfidence, MLPConfidence
from jaxmodels.decoding.depth.confidence.confidence import Confidence, Following, Passed, Recalling
from jaxmodels.decoding.depth.confidence.patience import Patience
from jaxmodels.decoding.depth.confidence.probabilities import Certainty, MaxProbability, ProbabilityGap
from jaxmodels.decoding.depth.confidence.recurrent import RecurrentConfidence
from jaxmodels.decoding.depth.confidence.similarity import Similarity

__all__ = [
    "AmongTokens",
    "CandidateConfidence",
    "Certainty",
    "Confidence",
    "Following",
    "LinearConfidence",
    "MLPConfidence",
    "MaxProbability",
    "Passed",
    "Patience",
    "ProbabilityGap",
    "Recalling",
    "RecurrentConfidence",
    "Similarity",
]
