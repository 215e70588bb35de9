"""What masked generation keeps of a canvas between steps, see `CanvasCache`."""

from typing import TYPE_CHECKING

from jaxmodels.on_first_use import lazy_names

if TYPE_CHECKING:
    from jaxmodels.decoding.masked.caches.d2_cache import D2Cache
    from jaxmodels.decoding.masked.caches.dllm_cache import DLLMCache
    from jaxmodels.decoding.masked.caches.dual import Dual, PrefixCache
    from jaxmodels.decoding.masked.caches.finished_blocks import FinishedBlocks
    from jaxmodels.decoding.masked.caches.kept import CanvasCache, Kept
    from jaxmodels.decoding.masked.caches.names import BY_NAME
    from jaxmodels.decoding.masked.caches.read_causally import ReadCausally
    from jaxmodels.decoding.masked.caches.recap import ReCAP
    from jaxmodels.decoding.masked.caches.recompute import Recompute

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

_HOMES = {
    "d2_cache": ("D2Cache",),
    "dllm_cache": ("DLLMCache",),
    "dual": ("Dual", "PrefixCache"),
    "finished_blocks": ("FinishedBlocks",),
    "kept": ("CanvasCache", "Kept"),
    "names": ("BY_NAME",),
    "read_causally": ("ReadCausally",),
    "recap": ("ReCAP",),
    "recompute": ("Recompute",),
}
__getattr__, __dir__ = lazy_names(__name__, _HOMES)
