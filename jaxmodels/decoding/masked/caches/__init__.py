"""What masked generation keeps of a canvas between steps, see `CanvasCache`."""

from jaxmodels.decoding.masked.caches.dual import Dual, PrefixCache
from jaxmodels.decoding.masked.caches.finished_blocks import FinishedBlocks
from jaxmodels.decoding.masked.caches.kept import CanvasCache, Kept
from jaxmodels.decoding.masked.caches.recompute import Recompute

__all__ = ["CanvasCache", "Dual", "FinishedBlocks", "Kept", "PrefixCache", "Recompute"]
