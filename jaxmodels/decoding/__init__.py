"""Decoding: loops over `peek` and `commit` that know no family, driven by small policies."""

from jaxmodels.decoding import processors
from jaxmodels.decoding.acceptance import Acceptance, BlockVerification, TokenVerification
from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.block_denoiser import BlockDenoiser
from jaxmodels.decoding.early_exit import Confidence, EarlyExit, MaxProbability
from jaxmodels.decoding.jacobi import Jacobi
from jaxmodels.decoding.samplers import Greedy, Sample, Sampler
from jaxmodels.decoding.scmoe import SCMoE
from jaxmodels.decoding.speculative import Draft, Speculative
from jaxmodels.decoding.strategy import LogProbs, Strategy

__all__ = [
    "Acceptance",
    "Autoregressive",
    "BlockDenoiser",
    "BlockVerification",
    "Confidence",
    "Draft",
    "EarlyExit",
    "Greedy",
    "Jacobi",
    "LogProbs",
    "MaxProbability",
    "SCMoE",
    "Sample",
    "Sampler",
    "Speculative",
    "Strategy",
    "TokenVerification",
    "processors",
]
