"""What masked generation keeps of a canvas between steps, see `CanvasCache`."""

from jaxmodels.decoding.masked.caches.d2_cache import D2Cache
from jaxmodels.decoding.masked.caches.dllm_cache import DLLMCache
from jaxmodels.decoding.masked.caches.dual import Dual, PrefixCache
from jaxmodels.decoding.masked.caches.finished_blocks import FinishedBlocks
from jaxmodels.decoding.masked.caches.kept import CanvasCache, Kept
from jaxmodels.decoding.masked.caches.recompute import Recompute

__all__ = [
    "CanvasCache",
    "D2Cache",
    "DLLMCache",
    "Dual",
    "FinishedBlocks",
    "Kept",
    "PrefixCache",
    "Recompute",
]
