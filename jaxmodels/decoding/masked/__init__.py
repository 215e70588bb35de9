"""Masked generation: unknown tokens are filled in, several at a time and in any order, block by block.

`MaskedDiffusion` is the loop. What it is made of is in the packages below: `blocks`, rules of unmasking
(`unmask`) and of editing (`remask`), exits (`stop`) and `caches`.
"""

from jaxmodels.decoding.masked import blocks, caches, remask, stop, unmask
from jaxmodels.decoding.masked.blocks.fixed import FixedBlocks
from jaxmodels.decoding.masked.caches.d2_cache import D2Cache
from jaxmodels.decoding.masked.caches.dllm_cache import DLLMCache
from jaxmodels.decoding.masked.caches.dual import Dual, PrefixCache
from jaxmodels.decoding.masked.caches.finished_blocks import FinishedBlocks
from jaxmodels.decoding.masked.caches.kept import CanvasCache
from jaxmodels.decoding.masked.caches.read_causally import ReadCausally
from jaxmodels.decoding.masked.caches.recompute import Recompute
from jaxmodels.decoding.masked.driver import MaskedDiffusion
from jaxmodels.decoding.masked.guidance import ClassifierFree
from jaxmodels.decoding.masked.latents import LatentSampler, sample_latents
from jaxmodels.decoding.masked.retranslation import Retranslation
from jaxmodels.decoding.masked.seen import Blocks, Edited, Guidance, Remask, Remembering, Seen, Stop, Unmask
from jaxmodels.decoding.masked.streaming import StreamingDiffusion
from jaxmodels.decoding.masked.unmask.threshold import Threshold

__all__ = [
    "Blocks",
    "CanvasCache",
    "ClassifierFree",
    "D2Cache",
    "DLLMCache",
    "Dual",
    "Edited",
    "FinishedBlocks",
    "FixedBlocks",
    "Guidance",
    "LatentSampler",
    "MaskedDiffusion",
    "PrefixCache",
    "ReadCausally",
    "Recompute",
    "Remask",
    "Remembering",
    "Retranslation",
    "Seen",
    "Stop",
    "StreamingDiffusion",
    "Threshold",
    "Unmask",
    "blocks",
    "caches",
    "remask",
    "sample_latents",
    "stop",
    "unmask",
]
