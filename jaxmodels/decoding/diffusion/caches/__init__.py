"""Caches: policies that leave out work of a denoising run, one small file each."""

from jaxmodels.decoding.diffusion.caches.cache import NoCache, Step, StepCache
from jaxmodels.decoding.diffusion.caches.dbcache import DBCache
from jaxmodels.decoding.diffusion.caches.depth_table import DepthTable
from jaxmodels.decoding.diffusion.caches.encoder_sharing import EncoderSharing
from jaxmodels.decoding.diffusion.caches.fastercache import FasterCache
from jaxmodels.decoding.diffusion.caches.first_block import FirstBlock
from jaxmodels.decoding.diffusion.caches.fora import FORA
from jaxmodels.decoding.diffusion.caches.harmonica import HarmoniCa
from jaxmodels.decoding.diffusion.caches.magcache import MagCache
from jaxmodels.decoding.diffusion.caches.pab import PAB
from jaxmodels.decoding.diffusion.caches.seacache import SeaCache
from jaxmodels.decoding.diffusion.caches.step_mask import PublishedMask, StepMask
from jaxmodels.decoding.diffusion.caches.taylorseer import TaylorSeer
from jaxmodels.decoding.diffusion.caches.teacache import TeaCache
from jaxmodels.decoding.diffusion.caches.uncertainty_exit import UncertaintyExit

__all__ = [
    "FORA",
    "PAB",
    "DBCache",
    "DepthTable",
    "EncoderSharing",
    "FasterCache",
    "FirstBlock",
    "HarmoniCa",
    "MagCache",
    "NoCache",
    "PublishedMask",
    "SeaCache",
    "Step",
    "StepCache",
    "StepMask",
    "TaylorSeer",
    "TeaCache",
    "UncertaintyExit",
]
