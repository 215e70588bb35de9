"""Samplers: policies that take a canvas from noise to data, one small file each."""

from jaxmodels.decoding.diffusion.samplers.betas import Betas, BetaSchedule
from jaxmodels.decoding.diffusion.samplers.bounds import Bound, Clip, DynamicThreshold
from jaxmodels.decoding.diffusion.samplers.ddim import DDIM
from jaxmodels.decoding.diffusion.samplers.ddpm import DDPM, Variance
from jaxmodels.decoding.diffusion.samplers.dpmpp import DPMPP
from jaxmodels.decoding.diffusion.samplers.dual_fast import DualFast, EarlierNoise
from jaxmodels.decoding.diffusion.samplers.edm import EDMDPMPP, EDMEuler, EDMSchedule
from jaxmodels.decoding.diffusion.samplers.euler import Euler
from jaxmodels.decoding.diffusion.samplers.flow_euler import FlowEuler
from jaxmodels.decoding.diffusion.samplers.flow_heun import FlowHeun
from jaxmodels.decoding.diffusion.samplers.flow_map import FlowMapEuler, SecondTime
from jaxmodels.decoding.diffusion.samplers.flow_schedule import (
    FixedShift,
    FlowLevels,
    FlowSchedule,
    FlowTime,
    ShiftForm,
    TokenShift,
)
from jaxmodels.decoding.diffusion.samplers.heun import Heun
from jaxmodels.decoding.diffusion.samplers.lcm import LCM
from jaxmodels.decoding.diffusion.samplers.multistep import LastStep, SecondOrder
from jaxmodels.decoding.diffusion.samplers.perflow import PeRFlow, WindowOutput
from jaxmodels.decoding.diffusion.samplers.piflow import PiFlowGrid, PiFlowMixture, Segments
from jaxmodels.decoding.diffusion.samplers.sampler import Plan, Sampler
from jaxmodels.decoding.diffusion.samplers.scm import SCM
from jaxmodels.decoding.diffusion.samplers.sigmas import BetaGrid, ExponentialGrid, KarrasGrid, SigmaGrid
from jaxmodels.decoding.diffusion.samplers.spacing import Spacing
from jaxmodels.decoding.diffusion.samplers.tcd import TCD
from jaxmodels.decoding.diffusion.samplers.unipc import Basis, UniPC

__all__ = [
    "DDIM",
    "DDPM",
    "DPMPP",
    "EDMDPMPP",
    "LCM",
    "SCM",
    "TCD",
    "Basis",
    "BetaGrid",
    "BetaSchedule",
    "Betas",
    "Bound",
    "Clip",
    "DualFast",
    "DynamicThreshold",
    "EDMEuler",
    "EDMSchedule",
    "EarlierNoise",
    "Euler",
    "ExponentialGrid",
    "FixedShift",
    "FlowEuler",
    "FlowHeun",
    "FlowLevels",
    "FlowMapEuler",
    "FlowSchedule",
    "FlowTime",
    "Heun",
    "KarrasGrid",
    "LastStep",
    "PeRFlow",
    "PiFlowGrid",
    "PiFlowMixture",
    "Plan",
    "Sampler",
    "SecondOrder",
    "SecondTime",
    "Segments",
    "ShiftForm",
    "SigmaGrid",
    "Spacing",
    "TokenShift",
    "UniPC",
    "Variance",
    "WindowOutput",
]
