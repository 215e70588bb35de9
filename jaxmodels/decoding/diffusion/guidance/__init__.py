"""Guidance: policies that push predictions away from those without a condition, one small file each."""

from jaxmodels.decoding.diffusion.guidance.cfg import CFG
from jaxmodels.decoding.diffusion.guidance.cfg_plus_plus import CFGPlusPlus
from jaxmodels.decoding.diffusion.guidance.guidance import Guidance, Outputs
from jaxmodels.decoding.diffusion.guidance.interval import Interval, TimeInterval
from jaxmodels.decoding.diffusion.guidance.rescaled import Rescaled
from jaxmodels.decoding.diffusion.guidance.residual import Residual, ResidualFromFirst, StreamGuidance
from jaxmodels.decoding.diffusion.guidance.zero_star import ZeroStar

__all__ = [
    "CFG",
    "CFGPlusPlus",
    "Guidance",
    "Interval",
    "Outputs",
    "Rescaled",
    "Residual",
    "ResidualFromFirst",
    "StreamGuidance",
    "TimeInterval",
    "ZeroStar",
]
