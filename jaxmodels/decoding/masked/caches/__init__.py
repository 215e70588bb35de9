"""What masked generation keeps of a canvas between steps, see `CanvasCache`."""

from collections.abc import Mapping
from types import MappingProxyType

from jaxmodels.decoding.masked.caches.d2_cache import D2Cache
from jaxmodels.decoding.masked.caches.dllm_cache import DLLMCache
from jaxmodels.decoding.masked.caches.dual import Dual, PrefixCache
from jaxmodels.decoding.masked.caches.finished_blocks import FinishedBlocks
from jaxmodels.decoding.masked.caches.kept import CanvasCache, Kept
from jaxmodels.decoding.masked.caches.read_causally import ReadCausally
from jaxmodels.decoding.masked.caches.recap import ReCAP
from jaxmodels.decoding.masked.caches.recompute import Recompute

# What command lines call them.
BY_NAME: Mapping[str, CanvasCache] = MappingProxyType(
    {"none": Recompute(), "prefix": PrefixCache(), "dual": Dual(), "finished-blocks": FinishedBlocks()}
)

__all__ = [
    "BY_NAME",
    "CanvasCache",
    "D2Cache",
    "DLLMCache",
    "Dual",
    "FinishedBlocks",
    "Kept",
    "PrefixCache",
    "ReCAP",
    "ReadCausally",
    "Recompute",
]
