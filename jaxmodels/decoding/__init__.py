"""Decoding: loops over `peek` and `commit` that know no family, driven by small policies."""

from jaxmodels.decoding.autoregressive import Autoregressive
from jaxmodels.decoding.samplers import Greedy, Sample, Sampler
from jaxmodels.decoding.strategy import LogProbs, Strategy

__all__ = ["Autoregressive", "Greedy", "LogProbs", "Sample", "Sampler", "Strategy"]
