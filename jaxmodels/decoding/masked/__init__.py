"""Masked generation: unknown tokens are filled in, several at a time and in any order, block by block.

`MaskedDiffusion` is the loop. What it is made of is in the packages below: `blocks`, rules of unmasking
(`unmask`) and of editing (`remask`), exits (`stop`) and `caches`.
"""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
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
    from jaxmodels.decoding.masked.seen import (
        Blocks,
        Edited,
        Guidance,
        Remask,
        Remembering,
        Seen,
        Stop,
        Unmask,
    )
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

_HOMES = {
    "blocks.fixed": ("FixedBlocks",),
    "caches.d2_cache": ("D2Cache",),
    "caches.dllm_cache": ("DLLMCache",),
    "caches.dual": ("Dual", "PrefixCache"),
    "caches.finished_blocks": ("FinishedBlocks",),
    "caches.kept": ("CanvasCache",),
    "caches.read_causally": ("ReadCausally",),
    "caches.recompute": ("Recompute",),
    "driver": ("MaskedDiffusion",),
    "guidance": ("ClassifierFree",),
    "latents": ("LatentSampler", "sample_latents"),
    "retranslation": ("Retranslation",),
    "seen": ("Blocks", "Edited", "Guidance", "Remask", "Remembering", "Seen", "Stop", "Unmask"),
    "streaming": ("StreamingDiffusion",),
    "unmask.threshold": ("Threshold",),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES, packages=("blocks", "caches", "remask", "stop", "unmask"))
