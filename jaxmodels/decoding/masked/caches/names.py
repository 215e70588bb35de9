"""What command lines call the caches of masked generation."""

from collections.abc import Mapping
from types import MappingProxyType

from jaxmodels.decoding.masked.caches.dual import Dual, PrefixCache
from jaxmodels.decoding.masked.caches.finished_blocks import FinishedBlocks
from jaxmodels.decoding.masked.caches.kept import CanvasCache
from jaxmodels.decoding.masked.caches.recompute import Recompute

BY_NAME: Mapping[str, CanvasCache] = MappingProxyType(
    {"none": Recompute(), "prefix": PrefixCache(), "dual": Dual(), "finished-blocks": FinishedBlocks()}
)
