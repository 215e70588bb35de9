"""Samplers: policies that take a canvas from noise to data, one small file each."""

from jaxmodels.decoding.diffusion.samplers.betas import Betas, BetaSchedule
from jaxmodels.decoding.diffusion.samplers.bounds import AS_PREDICTED, Clip, DynamicThreshold
from jaxmodels.decoding.diffusion.samplers.ddim import DDIM
from jaxmodels.decoding.diffusion.samplers.euler import Euler
from jaxmodels.decoding.diffusion.samplers.sampler import Plan, Sampler
from jaxmodels.decoding.diffusion.samplers.sigmas import AT_TIMES, BetaGrid, ExponentialGrid, KarrasGrid
from jaxmodels.decoding.diffusion.samplers.spacing import Spacing

__all__ = [
    "AS_PREDICTED",
    "AT_TIMES",
    "DDIM",
    "BetaGrid",
    "BetaSchedule",
    "Betas",
    "Clip",
    "DynamicThreshold",
    "Euler",
    "ExponentialGrid",
    "KarrasGrid",
    "Plan",
    "Sampler",
    "Spacing",
]
